"""C2D R-50 with non-local blocks on Kinetics-400: 8 frames, one of 8; 400k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_c2d_nonlocal_8x8.py

Published: top-1 74.4, top-5 91.4; https://dl.fbaipublicfiles.com/video-nonlocal/
c2d_nonlocal_8x8_IN_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("c2d", "8x8", non_local=True)
    config.published = kinetics.published("c2d_nonlocal_8x8_IN_pretrain_400k", 74.4, 91.4)
    return config
