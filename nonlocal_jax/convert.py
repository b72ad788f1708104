"""Imports published PyTorch checkpoints, and exports checkpoints to PyTorch.

    python -m nonlocal_jax.convert --config=ade20k_r50_80k --output=DIR [--input=FILE.pth]
    python -m nonlocal_jax.convert --backbone=resnet50_v1c --output=checkpoints/resnet50_v1c
    python -m nonlocal_jax.convert --export --input=CHECKPOINT --output=FILE.pth [--step=best]

Without `--input`, an import downloads the published file of the config. An export takes the network
from the checkpoint: CHECKPOINT is a run's folder or the result of an import.
"""

import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.pytorch import convert
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import startup


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_string(
        "input", "", "What to convert; by default the published file.", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "The checkpoint folder, or with --export the .pth file.", flag_values=values
    )
    flags.DEFINE_string(
        "backbone", "", "Import ImageNet weights, e.g. resnet50_v1c.", flag_values=values
    )
    flags.DEFINE_bool(
        "export", False, "Write a checkpoint of ours for PyTorch.", flag_values=values
    )
    flags.DEFINE_string(
        "step",
        "",
        "With --export, which checkpoint of a run: best, latest or a number; by default the best "
        "by mIoU, else the latest.",
        flag_values=values,
    )
    flags.DEFINE_bool("legacy", False, "Export in the form before PyTorch 1.6.", flag_values=values)
    flags.DEFINE_bool(
        "allow_nan", False, "Convert weights that are NaN or infinite, too.", flag_values=values
    )


def main(options: Options) -> None:
    """Converts as the flags say."""
    given = options.flags
    if given.export and given.backbone:
        raise UserError(
            "--export writes whole networks: name one with --input instead of --backbone."
        )
    if given.backbone and (options.names_config or options.overridden):
        raise UserError("--backbone says all about the network: leave out --config.")
    output = convert.new_path(given.output)
    startup.use_jax()
    if given.export:
        if not given.input:
            raise UserError("--input is missing: name the checkpoint folder to export.")
        found = locate.find(given.input, locate.parse_step(given.step))
        config = options.config_over(
            None if options.names_config else read_metadata(found.folder).needed_config(found)
        )
        convert.export(
            found,
            config,
            output,
            departing=options.overridden,
            legacy=given.legacy,
            allow_nan=given.allow_nan,
        )
        return
    if given.backbone:
        target = convert.backbone_target(given.backbone)
    else:
        target = convert.config_target(options.config, options.config_name)
    convert.import_(target, given.input, output, allow_nan=given.allow_nan)


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
