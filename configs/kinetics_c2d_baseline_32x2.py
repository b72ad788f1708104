"""C2D R-50 on Kinetics-400: 32 frames, one of 2; 400k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_c2d_baseline_32x2.py

Published: top-1 72.0, top-5 90.0; https://dl.fbaipublicfiles.com/video-nonlocal/
c2d_baseline_32x2_IN_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("c2d", "32x2", non_local=False)
    config.published = kinetics.published("c2d_baseline_32x2_IN_pretrain_400k", 72.0, 90.0)
    return config
