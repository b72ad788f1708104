"""Trains a config: `python -m nonlocal_jax.train` is `python -m nonlocal_jax.main`."""

import sys

from nonlocal_jax.main import run

__all__ = ["run"]

if __name__ == "__main__":
    sys.exit(run())
