"""The same as `python -m nonlocal_jax.prepare`."""

import sys

from nonlocal_jax.prepare import run

if __name__ == "__main__":
    sys.exit(run())
