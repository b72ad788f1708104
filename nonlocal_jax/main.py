"""Trains a config: `python -m nonlocal_jax.main --config=configs/ade20k_r101_160k.py`.

Run it again to go on from the newest checkpoint in the workdir.
"""

import functools
import pathlib

from absl import flags

from nonlocal_jax.config import command_line
from nonlocal_jax.inputs import loader
from nonlocal_jax.runtime import distributed
from nonlocal_jax.runtime.preemption import Preemption
from nonlocal_jax.training.loop import train
from nonlocal_jax.training.run_log import say

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and logs go; by default runs/CONFIG_NAME."
)


def main() -> None:
    """Trains what `--config` describes."""
    preemption = Preemption()
    config = command_line.config()
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / command_line.config_name())
    with distributed.session():
        distributed.check_shared(workdir)
        distributed.check_agreement(
            config.to_json_best_effort(), functools.partial(loader.open_source, config)
        )
        scores = train(config, workdir, preemption)
        say(f"Finished: mIoU {scores.miou:.4f}. Everything is in {workdir}.")


if __name__ == "__main__":
    distributed.define_flags()
    command_line.run(main)
