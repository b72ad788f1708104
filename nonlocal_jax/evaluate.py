"""Scores a checkpoint on its validation images or videos, by the published protocol.

    python -m nonlocal_jax.evaluate --checkpoint=RUN [--step=best|latest|N] [--tta]

prints the scores and writes them to --output, by default RUN/evaluation: of images, with a picture
of the confusion matrix; of videos, with the first five classes of each. Classes, data and protocol
are those of the checkpoint's config. --config and --config.KEY=VALUE depart from it.
--save_predictions adds PNGs for the server of the benchmark, --save_overlays pictures, and
--save_pictures=N image, label, prediction and error of the N worst images. With
--config.data.on_bad_example=skip, what can't be read is left out and listed, and the exit code is
1.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.locate import Found
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import Config, for_segmentation
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import evaluate_to_folder as images
from nonlocal_jax.evaluation.restore import default_output, restore
from nonlocal_jax.evaluation.result import Result
from nonlocal_jax.evaluation.video import evaluate_to_folder as videos
from nonlocal_jax.evaluation.video.restore import restore as restore_video
from nonlocal_jax.runtime import distributed, sharding, startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import check_folder


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    command_line.define_checkpoint_flags(values)
    flags.DEFINE_string(
        "output", None, "Folder to write to; by default RUN/evaluation.", flag_values=values
    )
    flags.DEFINE_integer(
        "limit", None, "Only so many images or videos, the first ones.", 1, flag_values=values
    )
    flags.DEFINE_string(
        "images", None, "A text file with the names of images or videos, a line each: only those.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "save_predictions", False, "Write PNGs for the benchmark's server.", flag_values=values
    )
    flags.DEFINE_bool(
        "save_overlays", False, "Write images tinted by predicted class.", flag_values=values
    )
    flags.DEFINE_integer(
        "save_pictures",
        0,
        "Write image, label, prediction and error side by side, of so many images: the worst ones.",
        0,
        flag_values=values,
    )
    command_line.define_process_flags(values)


def main(options: Options) -> None:
    """Evaluates `--checkpoint` on its validation split."""
    given = options.flags
    options.require("checkpoint")
    if given.output:
        check_folder(pathlib.Path(given.output))
    names = _lines(given.images) if given.images else None
    found = locate.find(given.checkpoint, locate.parse_step(given.step))
    config = options.config_over(lambda: read_metadata(found.folder).needed_config(found))
    default = default_output(found, "evaluation_tta" if given.tta else "evaluation")
    output = pathlib.Path(given.output or default)
    check_folder(output)
    startup.use_jax(config.precision)
    with distributed.session(**options.processes):
        say(f"The checkpoint is {found}.")
        result: Result[Any]
        if isinstance(config, VideoConfig):
            result = _evaluate_videos(options, found, config, output, names)
        else:
            result = _evaluate_images(options, found, for_segmentation(config), output, names)
        if jax.process_index() == 0:
            sys.stdout.write(f"{result.scores.table()}\n")
        say(f"Written to {output}.")
    command_line.exit_for_bad_images(result.left_out, result.total, result.unit)


def _evaluate_images(
    options: Options, found: Found, config: Config, output: pathlib.Path, names: list[str] | None
) -> Result[Any]:
    given = options.flags
    return images.evaluate_to_folder(
        restore(found, config, departing=options.overridden),
        output,
        mesh=sharding.make_mesh(config.mesh),
        tta=given.tta,
        limit=given.limit,
        images=names,
        predictions=given.save_predictions,
        overlays=given.save_overlays,
        pictures_of=given.save_pictures,
    )


def _evaluate_videos(
    options: Options,
    found: Found,
    config: VideoConfig,
    output: pathlib.Path,
    names: list[str] | None,
) -> Result[Any]:
    given = options.flags
    if given.save_predictions or given.save_overlays or given.save_pictures:
        raise UserError(
            "--save_predictions, --save_overlays and --save_pictures are for images: leave them "
            "out. The classes of each video are in scores.json."
        )
    return videos.evaluate_to_folder(
        restore_video(found, config, departing=options.overridden),
        output,
        mesh=sharding.make_mesh(config.mesh),
        mirrored=given.tta,
        limit=given.limit,
        videos=names,
    )


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


def _lines(file: str) -> list[str]:
    try:
        lines = pathlib.Path(file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--images={file} can't be read: {error}.") from error
    return [line.strip() for line in lines if line.strip()]


if __name__ == "__main__":
    sys.exit(run())
