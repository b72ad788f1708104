"""NonLocalNet R-50-D8 on Cityscapes: 769x769 crops, 40k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r50_769x769_40k.py

Published: mIoU 78.33, 79.92 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes_769()
    config.published = common.published(
        "nonlocal_r50-d8_769x769_40k_cityscapes",
        "20200530_045243-82ef6749",
        miou=78.33,
        miou_tta=79.92,
        memory_gb=8.9,
        fps=1.52,
    )
    return config
