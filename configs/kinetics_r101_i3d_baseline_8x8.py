"""I3D R-101 on Kinetics-400: 8 frames, one of 8; 400k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_r101_i3d_baseline_8x8.py

To train; no checkpoint was published.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("i3d", "8x8", non_local=False, depth=101)
    return config
