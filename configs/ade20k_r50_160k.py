"""NonLocalNet R-50-D8 on ADE20K: 512x512 crops, 160k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/ade20k_r50_160k.py

Published: mIoU 42.03, 43.04 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.ade20k()
    config.total_steps = 160_000
    config.eval_every = config.checkpoint_every = 16_000
    config.published = common.published(
        "nonlocal_r50-d8_512x512_160k_ade20k",
        "20200616_005410-baef45e3",
        miou=42.03,
        miou_tta=43.04,
    )
    return config
