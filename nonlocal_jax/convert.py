"""Imports published checkpoints of PyTorch and Caffe2, and exports checkpoints to them.

    python -m nonlocal_jax.convert --config=ade20k_r50_80k --output=DIR [--input=FILE.pth]
    python -m nonlocal_jax.convert --backbone=resnet50_v1c --output=checkpoints/resnet50_v1c
    python -m nonlocal_jax.convert --config=kinetics_i3d_nonlocal_8x8 --output=DIR --input=FILE.pkl
    python -m nonlocal_jax.convert --export --input=CHECKPOINT --output=FILE.pth [--step=best]

Without `--input`, an import downloads the published file of the config. An export takes the network
from the checkpoint: CHECKPOINT is a run's folder or the result of an import. Video networks are
Caffe2's, and all others PyTorch's. With `--initial`, a file of ImageNet weights or of another data
set becomes a checkpoint that a video run starts from.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from nonlocal_jax.checkpoints import conversion, locate
from nonlocal_jax.checkpoints.caffe2 import convert as caffe2
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.pytorch import convert
from nonlocal_jax.config import command_line
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.config.schema import Config, Run
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import startup


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_string(
        "input", "", "What to convert; by default the published file.", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "The checkpoint folder, or with --export the file.", flag_values=values
    )
    flags.DEFINE_string(
        "backbone", "", "Import ImageNet weights, e.g. resnet50_v1c.", flag_values=values
    )
    flags.DEFINE_bool(
        "export", False, "Write a checkpoint of ours for PyTorch or Caffe2.", flag_values=values
    )
    flags.DEFINE_string(
        "step",
        "",
        "With --export, which checkpoint of a run: best, latest or a number; by default the best "
        "by mIoU, else the latest.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "initial",
        False,
        "The Caffe2 file holds weights to start training from: 2D kernels are inflated, and the "
        "classifier is left out.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "form",
        "checkpoint",
        list(caffe2.FORMS),
        "With --export, what a Caffe2 file holds: the network, or weights that an affine network "
        "or fine-tuning starts from.",
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
    output = conversion.new_path(given.output)
    startup.use_jax()
    if given.export:
        if not given.input:
            raise UserError("--input is missing: name the checkpoint folder to export.")
        found = locate.find(given.input, locate.parse_step(given.step))
        config = options.config_over(lambda: read_metadata(found.folder).needed_config(found))
        _export(options, found, config, output)
    elif given.backbone:
        target = convert.backbone_target(given.backbone)
        convert.import_(target, given.input, output, allow_nan=given.allow_nan)
    else:
        _import(options, output)


def _export(options: Options, found: locate.Found, config: Run, output: Path) -> None:
    given, departing = options.flags, options.overridden
    if isinstance(config, VideoConfig):
        caffe2.export(
            found,
            config,
            output,
            form=given.form,
            departing=departing,
            allow_nan=given.allow_nan,
        )
    elif isinstance(config, Config):
        convert.export(
            found,
            config,
            output,
            departing=departing,
            legacy=given.legacy,
            allow_nan=given.allow_nan,
        )


def _import(options: Options, output: Path) -> None:
    given, config = options.flags, options.config
    if isinstance(config, VideoConfig):
        caffe2.import_(
            config,
            options.config_name,
            given.input,
            output,
            initial=given.initial,
            allow_nan=given.allow_nan,
        )
    elif isinstance(config, Config):
        target = convert.config_target(config, options.config_name)
        convert.import_(target, given.input, output, allow_nan=given.allow_nan)


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="optional", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
