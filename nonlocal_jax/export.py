"""Exports a trained network, so that it runs without this package.

    python -m nonlocal_jax.export --checkpoint=RUN --to=stablehlo|onnx|savedmodel|safetensors|page \
        --output=PATH [--step=best|latest|N] [--result=indices|probabilities|logits] [--tta] \
        [--input=IMAGES] [--keys=own|pytorch]

The exported function takes RGB images of any size and number, uint8, and returns what --result
says, resized as the checkpoint's protocol does. Before the file is written, its results are
compared with JAX's; an export that differs is not written.

safetensors is a folder for the Hugging Face hub instead: the arrays of a network for images or
videos, by our names or by PyTorch's (--keys).

A page is one HTML file that shows --input (images; of a video network, videos) and, at a click,
what a pixel attends to. --with_model puts the network into it, too, for its visitors' own pictures;
--onnxruntime=DIR, what runs it there.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints import conversion, locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.hub.files import KEYS
from nonlocal_jax.checkpoints.locate import Found
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import for_segmentation
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import segment_files
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.evaluation.video.restore import restore as restore_video
from nonlocal_jax.exporting import page, safetensors
from nonlocal_jax.exporting.request import (
    FORMATS,
    FUNCTIONS,
    RESULTS,
    Request,
    Written,
    portable,
    writer,
)
from nonlocal_jax.inputs import decode
from nonlocal_jax.inputs.video.decode import SUFFIXES
from nonlocal_jax.runtime import startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import check_folder
from nonlocal_jax.runtime.packages import need


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
        "An image, a folder or a quoted pattern: what the export is compared on, or a page shows; "
        "of a video network, videos.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "with_model",
        False,
        "A page holds the network, too, for its visitors' own pictures.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "onnxruntime",
        None,
        "Folder of onnxruntime-web (dist of its npm package) for --with_model: it is put into the "
        "page. Without it, browsers download it when a visitor chooses a picture.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "keys", "own", list(KEYS), "Names and layouts in safetensors.", flag_values=values
    )


def main(options: Options) -> None:
    """Exports `--checkpoint`."""
    given = options.flags
    options.require("checkpoint", "to", "output")
    _check_flags(options)
    write = writer(given.to)
    output = conversion.new_path(given.output)
    found = locate.find(given.checkpoint, locate.parse_step(given.step))
    config = options.config_over(lambda: read_metadata(found.folder).needed_config(found))
    if isinstance(config, VideoConfig):
        _export_video_network(options, found, config, output)
        return
    config = for_segmentation(config)
    if given.to != "safetensors":
        config = portable(config)
    images = tuple(segment_files.find_images(given.input)) if given.input else ()
    if given.to in FUNCTIONS:
        _check_images(images, config.data.max_pixels)
    check_folder(output.parent)
    startup.use_jax(config.precision)
    say(f"The checkpoint is {found}.")
    restored = restore(found, config, departing=options.overridden)
    request = Request(
        restored,
        output,
        given.result,
        tta=given.tta,
        images=images,
        keys=given.keys,
        with_model=given.with_model,
        onnxruntime=pathlib.Path(given.onnxruntime) if given.onnxruntime else None,
    )
    _finish(write(request), len(images), "images")


def _check_flags(options: Options) -> None:
    given = options.flags
    if given.with_model and given.to != "page":
        raise UserError("--with_model is for --to=page.")
    if given.onnxruntime and not given.with_model:
        raise UserError("--onnxruntime is for --with_model.")
    if given.keys != "own" and given.to != "safetensors":
        raise UserError("--keys is for --to=safetensors.")
    if given.result != "indices" and given.to not in FUNCTIONS:
        raise UserError(f"--result is for exported functions: --to={', '.join(FUNCTIONS)}.")
    if given.to == "safetensors" and (given.tta or given.input):
        raise UserError(
            "--tta and --input are for exported functions and pages, and --to=safetensors writes "
            "the network's arrays: leave them out."
        )
    if given.to == "page" and not given.input:
        raise UserError("--to=page needs --input: the pictures or videos that the page shows.")
    if given.with_model:
        need("--with_model", *FUNCTIONS["onnx"])


def _export_video_network(
    options: Options, found: Found, config: VideoConfig, output: pathlib.Path
) -> None:
    given = options.flags
    if given.to not in ("page", "safetensors"):
        raise UserError(
            f"--to={given.to} is for networks that segment images, and this one labels videos. "
            "--to=page and --to=safetensors take it."
        )
    if given.with_model:
        raise UserError("--with_model is for networks that segment images; this one labels videos.")
    paths = segment_files.find_files(given.input, "video", SUFFIXES) if given.input else []
    check_folder(output.parent)
    startup.use_jax(config.precision)
    say(f"The checkpoint is {found}.")
    restored = restore_video(found, config, departing=options.overridden)
    if given.to == "safetensors":
        written = safetensors.write_network(restored, output, given.keys)
    else:
        written = page.write_videos(restored, output, paths, tta=given.tta)
    _finish(written, len(paths), "videos")


def _check_images(images: Sequence[pathlib.Path], most_pixels: int) -> None:
    """Tells of an image that can't be read now, not after the export."""
    for path in images:
        try:
            decode.read_image(path, most_pixels)
        except UserError as error:
            raise UserError(segment_files.first_sentence(error)) from error


def _finish(written: Written, total: int, unit: str) -> None:
    for line in written.lines:
        say(line)
    command_line.exit_for_bad_images(written.left_out, total, unit)


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
