"""NonLocalNet R-50-D8 on Cityscapes: 512x1024 crops, 80k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r50_512x1024_80k.py

Published: mIoU 78.01.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes()
    config.total_steps = 80_000
    config.eval_every = config.checkpoint_every = 8_000
    config.published = common.published(
        "nonlocal_r50-d8_512x1024_80k_cityscapes",
        "20200607_193518-d6839fae",
        miou=78.01,
    )
    return config
