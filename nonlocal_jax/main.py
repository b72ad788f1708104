"""Trains a config: `python -m nonlocal_jax.main --config=configs/ade20k_r101_160k.py`.

The same command resumes an interrupted run from its newest checkpoint.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from nonlocal_jax.config import command_line, files
from nonlocal_jax.config.command_line import Options
from nonlocal_jax.runtime import distributed, startup
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.preemption import Preemption
from nonlocal_jax.training.loop import train
from nonlocal_jax.training.tasks import task as tasks


def define(values: flags.FlagValues) -> None:
    """The command's own flags."""
    flags.DEFINE_string(
        "workdir",
        None,
        "Where checkpoints and logs go; by default runs/CONFIG_NAME.",
        flag_values=values,
    )
    command_line.define_process_flags(values)


def main(options: Options) -> None:
    """Trains what `--config` describes."""
    preemption, config = Preemption(), options.config
    startup.use_jax(config.precision, log_kernels=True)
    name = options.config_name.replace(":", "_")
    workdir = pathlib.Path(options.flags.workdir or pathlib.Path("runs") / name)
    with distributed.session(**options.processes):
        distributed.check_shared(workdir)
        settings = files.flatten(files.to_tree(config))
        distributed.check_agreement(settings, tasks.of(config).inputs.open)
        scores = train(config, workdir, preemption)
        say(f"Finished: {scores.headline}. Everything is in {workdir}.")


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(main, define, config="required", argv=argv)


if __name__ == "__main__":
    sys.exit(run())
