"""I3D R-50 on Kinetics-400: 8 frames, one of 8; 600k steps of 32 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_baseline_8x8_600k_4gpu.py

Published: top-1 73.0, top-5 90.4; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_baseline_8x8_IN_pretrain_600k_4gpu.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("i3d", "8x8", non_local=False)
    kinetics.four_gpus(config)
    config.optimizer.schedule.steps = (300_000, 500_000)
    config.total_steps = 600_000
    config.published = kinetics.published("i3d_baseline_8x8_IN_pretrain_600k_4gpu", 73.0, 90.4)
    return config
