"""I3D R-50 on Kinetics-400: 8 frames, one of 8; 300k steps of 32 clips.

    python -m nonlocal_jax.main --config=configs/kinetics_i3d_baseline_8x8_300k_4gpu.py

Published: top-1 72.0, top-5 90.1; https://dl.fbaipublicfiles.com/video-nonlocal/
i3d_baseline_8x8_IN_pretrain_300k_4gpu.pkl
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import kinetics


def get_config() -> ConfigDict:
    """The row's config."""
    config = kinetics.row("i3d", "8x8", non_local=False)
    kinetics.four_gpus(config)
    config.optimizer.schedule.steps = (150_000, 250_000)
    config.total_steps = 300_000
    config.data.short_side = (256, 256)
    config.model.head.dropout = 0.0
    config.published = kinetics.published("i3d_baseline_8x8_IN_pretrain_300k_4gpu", 72.0, 90.1)
    return config
