"""C2D R-50 with non-local blocks on Kinetics-400: 32 frames, one of 2; 400k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_c2d_nonlocal_32x2.py

Published: top-1 73.9, top-5 91.0; https://dl.fbaipublicfiles.com/video-nonlocal/
c2d_nonlocal_32x2_IN_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("c2d", "32x2", non_local=True)
    config.published = kinetics.published("c2d_nonlocal_32x2_IN_pretrain_400k", 73.9, 91.0)
    return config
