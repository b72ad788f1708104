"""NonLocalNet R-50-D8 on Cityscapes: 512x1024 crops, 40k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r50_512x1024_40k.py

Published: mIoU 78.24.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes()
    config.published = common.published(
        "nonlocal_r50-d8_512x1024_40k_cityscapes",
        "20200605_210748-c75e81e3",
        miou=78.24,
        memory_gb=7.4,
        fps=2.72,
    )
    return config
