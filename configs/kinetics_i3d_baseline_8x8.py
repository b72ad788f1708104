"""I3D R-50 on Kinetics-400: 8 frames, one of 8; 400k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_baseline_8x8.py

Published: top-1 73.4, top-5 90.9; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_baseline_8x8_IN_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("i3d", "8x8", non_local=False)
    config.published = kinetics.published("i3d_baseline_8x8_IN_pretrain_400k", 73.4, 90.9)
    return config
