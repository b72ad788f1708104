"""NonLocalNet R-50-D8 on ADE20K: 512x512 crops, 80k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/ade20k_r50_80k.py

Published: mIoU 40.75, 42.05 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.ade20k()
    config.published = common.published(
        "nonlocal_r50-d8_512x512_80k_ade20k",
        "20200615_015801-5ae0aa33",
        miou=40.75,
        miou_tta=42.05,
        memory_gb=9.1,
        fps=21.37,
    )
    return config
