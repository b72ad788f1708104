"""Exports a trained network, so that it runs without this package.

    python -m nonlocal_jax.export --checkpoint=RUN --to=stablehlo|onnx|savedmodel|safetensors|page \
        --output=PATH [--step=best|latest|N] [--result=indices|probabilities|logits] [--tta] \
        [--input=IMAGES]

The exported function takes RGB images of any size and number, uint8, and returns what --result
says, resized as the checkpoint's protocol does. Before the file is written, its results are
compared with JAX's; an export that differs is not written.
"""

import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints import conversion, locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import for_segmentation
from nonlocal_jax.evaluation import segment_files
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.exporting.request import FORMATS, RESULTS, Request, portable, writer
from nonlocal_jax.reporting.outputs import check_folder
from nonlocal_jax.runtime import startup
from nonlocal_jax.runtime.console import say


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    command_line.define_checkpoint_flags(values)
    flags.DEFINE_enum("to", None, list(FORMATS), "The format.", flag_values=values)
    flags.DEFINE_string("output", None, "File or folder to write.", flag_values=values)
    flags.DEFINE_enum(
        "result", "indices", list(RESULTS), "What the function returns.", flag_values=values
    )
    flags.DEFINE_string(
        "input",
        None,
        "An image, a folder or a quoted pattern: what the export is compared on, or a page shows.",
        flag_values=values,
    )


def main(options: Options) -> None:
    """Exports `--checkpoint`."""
    given = options.flags
    options.require("checkpoint", "to", "output")
    write = writer(given.to)
    output = conversion.new_path(given.output)
    found = locate.find(given.checkpoint, locate.parse_step(given.step))
    config = for_segmentation(
        options.config_over(
            None if options.names_config else read_metadata(found.folder).needed_config(found)
        )
    )
    config = portable(config)
    images = tuple(segment_files.find_images(given.input)) if given.input else ()
    check_folder(output.parent)
    startup.use_jax(config.precision)
    say(f"The checkpoint is {found}.")
    restored = restore(found, config, departing=options.overridden)
    request = Request(restored, output, given.result, tta=given.tta, images=images)
    for line in write(request):
        say(line)


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
