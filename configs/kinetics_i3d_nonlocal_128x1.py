"""I3D R-50 with non-local blocks on Kinetics-400: 128 frames, each; 400k steps of 16 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_nonlocal_128x1.py

Published: top-1 76.5, top-5 92.7; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_nonlocal_128x1_I3D_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.affine_row("128x1", non_local=True)
    config.published = kinetics.published("i3d_nonlocal_128x1_I3D_pretrain_400k", 76.5, 92.7)
    return config
