"""Trains a config: `python -m nonlocal_jax.main --config=configs/ade20k_r101_160k.py`.

Run it again to go on from the newest checkpoint in the workdir.
"""

import pathlib

import jax
from absl import flags

from nonlocal_jax import cli
from nonlocal_jax.run_log import say
from nonlocal_jax.train import train

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and logs go; by default runs/CONFIG_NAME."
)


def main() -> None:
    """Trains what `--config` describes."""
    config = cli.config()
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / cli.config_name())
    if config.precision != "default":
        jax.config.update("jax_default_matmul_precision", config.precision)
    scores = train(config, workdir)
    say(f"Finished: mIoU {scores.miou:.4f}. Everything is in {workdir}.")


if __name__ == "__main__":
    cli.run(main)
