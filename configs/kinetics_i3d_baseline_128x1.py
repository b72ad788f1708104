"""I3D R-50 on Kinetics-400: 128 frames, each; 400k steps of 16 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_baseline_128x1.py

Published: top-1 75.2, top-5 92.0; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_baseline_128x1_I3D_pretrain_400k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.affine_row("128x1", non_local=False)
    config.published = kinetics.published("i3d_baseline_128x1_I3D_pretrain_400k", 75.2, 92.0)
    return config
