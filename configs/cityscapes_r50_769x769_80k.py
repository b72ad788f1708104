"""NonLocalNet R-50-D8 on Cityscapes: 769x769 crops, 80k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r50_769x769_80k.py

Published: mIoU 79.05, 80.68 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes_769()
    config.total_steps = 80_000
    config.eval_every = config.checkpoint_every = 8_000
    config.published = common.published(
        "nonlocal_r50-d8_769x769_80k_cityscapes",
        "20200607_193506-1f9792f6",
        miou=79.05,
        miou_tta=80.68,
    )
    return config
