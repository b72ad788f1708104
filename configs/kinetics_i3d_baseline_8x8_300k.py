"""I3D R-50 on Kinetics-400: 8 frames, one of 8; 300k steps of 64 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_baseline_8x8_300k.py

Published: top-1 73.2, top-5 90.8; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_baseline_8x8_IN_pretrain_300k.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("i3d", "8x8", non_local=False)
    config.optimizer.schedule.steps = (150_000, 250_000)
    config.total_steps = 300_000
    config.published = kinetics.published("i3d_baseline_8x8_IN_pretrain_300k", 73.2, 90.8)
    return config
