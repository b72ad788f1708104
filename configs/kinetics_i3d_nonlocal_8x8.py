"""I3D R-50 with non-local blocks on Kinetics-400: 8 frames, one of 8; 400k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_nonlocal_8x8.py

Published: top-1 74.7, top-5 91.6; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_nonlocal_8x8_IN_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("i3d", "8x8", non_local=True)
    config.published = kinetics.published("i3d_nonlocal_8x8_IN_pretrain_400k", 74.7, 91.6)
    return config
