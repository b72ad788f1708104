"""Segments images, or labels videos, as the checkpoint's network does.

    python -m nonlocal_jax.predict --checkpoint=RUN --input=FILE|FOLDER|'GLOB' \
        [--output=DIR] [--step=best|latest|N] [--tta] [--probabilities] [--attend=ROW,COLUMN]

writes to DIR, by default RUN/predictions. Of images, it writes index masks, overlays with a legend
and, on request, probabilities, and what a pixel attends to. Of videos, it prints the five most
probable classes, and writes them to predictions.json; --attend=FRAME,ROW,COLUMN adds a strip of
what a pixel of the middle clip attends to, over all of its frames.

Classes and protocol are those of the checkpoint's config. --config and --config.KEY=VALUE depart
from it. A file that can't be read is listed and left out, and the exit code is 1.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.locate import Found
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import Config, for_segmentation
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import segment_files
from nonlocal_jax.evaluation.restore import default_output, restore
from nonlocal_jax.evaluation.video import label_files
from nonlocal_jax.evaluation.video.predictor import VideoPredictor
from nonlocal_jax.evaluation.video.restore import restore as restore_video
from nonlocal_jax.inputs.video import decode
from nonlocal_jax.runtime import sharding, startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import check_folder


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    command_line.define_checkpoint_flags(values)
    flags.DEFINE_string(
        "input", None, "An image or video, a folder, or a quoted pattern.", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "Folder to write to; by default RUN/predictions.", flag_values=values
    )
    flags.DEFINE_bool(
        "probabilities", False, "Write class probabilities, float16 .npz, too.", flag_values=values
    )
    flags.DEFINE_string(
        "attend",
        None,
        "ROW,COLUMN of a pixel: write what it attends to, too; of a video FRAME,ROW,COLUMN.",
        flag_values=values,
    )


def main(options: Options) -> None:
    """Segments or labels `--input` with `--checkpoint`."""
    given = options.flags
    options.require("checkpoint", "input")
    if given.output:
        check_folder(pathlib.Path(given.output))
    found = locate.find(given.checkpoint, locate.parse_step(given.step))
    config = options.config_over(lambda: read_metadata(found.folder).needed_config(found))
    output = pathlib.Path(given.output or default_output(found, "predictions"))
    if isinstance(config, VideoConfig):
        _label(options, found, config, output)
    else:
        _segment(options, found, for_segmentation(config), output)


def _segment(options: Options, found: Found, config: Config, output: pathlib.Path) -> None:
    given = options.flags
    point = parse_point(given.attend, "ROW,COLUMN")
    images = segment_files.find_images(given.input)
    check_folder(output)
    startup.use_jax(config.precision)
    say(f"The checkpoint is {found}.")
    restored = restore(found, config, departing=options.overridden)
    if point is not None and not restored.network.has_attention:
        head = config.model.decode_head.name
        raise UserError(f"--attend: the decode head {head} has no attention map.")
    files = segment_files.ImageFiles(images, config.data.max_pixels)
    if point is not None:
        _check_point(point, files)
    mesh = sharding.make_mesh(config.mesh)
    segment_files.segment_files(
        files, output, restored, mesh=mesh, tta=given.tta, probabilities=given.probabilities
    )
    if point is not None:
        place = point[0], point[1]
        segment_files.write_attention(files, output / "attention", restored, place, mesh=mesh)
    done = len(images) - len(files.bad)
    say(f"{done} of {len(images)} images are done; the results are in {output}.")
    command_line.exit_for_bad_images(list(files.bad.values()), len(images))


def _label(options: Options, found: Found, config: VideoConfig, output: pathlib.Path) -> None:
    given = options.flags
    if given.probabilities:
        raise UserError("--probabilities is for images: those of videos are printed anyway.")
    point = parse_point(given.attend, "FRAME,ROW,COLUMN")
    videos = segment_files.find_files(given.input, "video", decode.SUFFIXES)
    check_folder(output)
    startup.use_jax(config.precision)
    say(f"The checkpoint is {found}.")
    restored = restore_video(found, config, departing=options.overridden)
    model = VideoPredictor(restored, tta=given.tta)
    place = None if point is None else (point[0], point[1], point[2])
    bad = label_files.label_files(videos, output, model, point=place)
    done = len(videos) - len(bad)
    say(f"{done} of {len(videos)} videos are done; the results are in {output}.")
    command_line.exit_for_bad_images(list(bad.values()), len(videos), "videos")


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


def _check_point(point: tuple[int, ...], files: segment_files.ImageFiles) -> None:
    """Raises a UserError, before anything is compiled, if no image has this pixel."""
    row, column = point
    if files.sizes and not any(row < height and column < width for height, width in files.sizes):
        height, width = files.sizes[0]
        raise UserError(
            f"--attend: no image has row {row}, column {column}. {files.paths[0]} has {height} "
            f"rows and {width} columns, counted from 0."
        )


def parse_point(text: str | None, form: str = "ROW,COLUMN") -> tuple[int, ...] | None:
    """The numbers of a point; None for None.

    Args:
      text: what was given.
      form: what it must be: "ROW,COLUMN".

    Raises:
      UserError: it is something else.
    """
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    count = len(form.split(","))
    if len(numbers) != count or min(numbers) < 0:
        example = ",".join(("4", "120", "80")[-count:])
        raise UserError(f"--attend is {text!r}; it must be {form}, e.g. {example}.")
    return numbers


if __name__ == "__main__":
    sys.exit(run())
