"""NonLocalNet R-101-D8 on Cityscapes: 769x769 crops, 40k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r101_769x769_40k.py

Published: mIoU 78.57, 80.29 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes_769()
    common.resnet101(config)
    config.published = common.published(
        "nonlocal_r101-d8_769x769_40k_cityscapes",
        "20200530_045348-8fe9a9dc",
        miou=78.57,
        miou_tta=80.29,
        memory_gb=12.8,
        fps=1.05,
    )
    return config
