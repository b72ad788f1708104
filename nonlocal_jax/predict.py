"""Segments images: index masks, and the images tinted by class above a legend.

    python -m nonlocal_jax.predict --checkpoint=RUN --input=IMAGE|FOLDER|'GLOB' \
        [--output=DIR] [--step=best|latest|N] [--tta] [--probabilities] [--attend=ROW,COLUMN]

writes DIR/masks, DIR/overlays and, on request, DIR/probabilities and DIR/attention. DIR is
RUN/predictions by default. Classes and protocol are those of the checkpoint's config. --config and
--config.KEY=VALUE depart from it. An image that can't be read is listed and left out, and the exit
code is 1.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import segment_files
from nonlocal_jax.evaluation.restore import default_output, restore
from nonlocal_jax.reporting.outputs import check_folder
from nonlocal_jax.runtime import sharding, startup
from nonlocal_jax.runtime.console import say


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    command_line.define_checkpoint_flags(values)
    flags.DEFINE_string(
        "input", None, "An image, a folder, or a quoted pattern.", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "Folder to write to; by default RUN/predictions.", flag_values=values
    )
    flags.DEFINE_bool(
        "probabilities", False, "Write class probabilities, float16 .npz, too.", flag_values=values
    )
    flags.DEFINE_string(
        "attend", None, "ROW,COLUMN of a pixel: write what it attends to, too.", flag_values=values
    )


def main(options: Options) -> None:
    """Segments `--input` with `--checkpoint`."""
    given = options.flags
    options.require("checkpoint", "input")
    point = parse_point(given.attend)
    images = segment_files.find_images(given.input)
    if given.output:
        check_folder(pathlib.Path(given.output))
    found = locate.find(given.checkpoint, locate.parse_step(given.step))
    config = options.config_over(
        None if options.names_config else read_metadata(found.folder).needed_config(found)
    )
    output = pathlib.Path(given.output or default_output(found, "predictions"))
    check_folder(output)
    startup.use_jax(config.precision)
    say(f"The checkpoint is {found}.")
    restored = restore(found, config, departing=options.overridden)
    if point is not None and not restored.network.has_attention:
        raise UserError("--attend needs a network with config.model.decode_head.name=nonlocal.")
    files = segment_files.ImageFiles(images, config.data.max_pixels)
    mesh = sharding.make_mesh(config.mesh)
    segment_files.segment_files(
        files, output, restored, mesh=mesh, tta=given.tta, probabilities=given.probabilities
    )
    if point is not None:
        segment_files.write_attention(files, output / "attention", restored, point, mesh=mesh)
    done = len(images) - len(files.bad)
    say(f"{done} of {len(images)} images are done; the results are in {output}.")
    command_line.exit_for_bad_images(list(files.bad.values()), len(images))


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


def parse_point(text: str | None) -> tuple[int, int] | None:
    """Row and column from "ROW,COLUMN"; None for None.

    Raises:
      UserError: it is no such pair.
    """
    if text is None:
        return None
    try:
        row, column = (int(part) for part in text.split(","))
        if min(row, column) < 0:
            raise ValueError(text)
    except ValueError as error:
        raise UserError(f"--attend is {text!r}; it must be ROW,COLUMN, e.g. 120,80.") from error
    return row, column


if __name__ == "__main__":
    sys.exit(run())
