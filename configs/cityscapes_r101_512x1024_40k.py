"""NonLocalNet R-101-D8 on Cityscapes: 512x1024 crops, 40k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r101_512x1024_40k.py

Published: mIoU 78.66.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes()
    common.resnet101(config)
    config.published = common.published(
        "nonlocal_r101-d8_512x1024_40k_cityscapes",
        "20200605_210748-d63729fa",
        miou=78.66,
        memory_gb=10.9,
        fps=1.95,
    )
    return config
