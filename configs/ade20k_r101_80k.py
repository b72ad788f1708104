"""NonLocalNet R-101-D8 on ADE20K: 512x512 crops, 80k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/ade20k_r101_80k.py

Published: mIoU 42.90, 44.27 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.ade20k()
    common.resnet101(config)
    config.published = common.published(
        "nonlocal_r101-d8_512x512_80k_ade20k",
        "20200615_015758-24105919",
        miou=42.90,
        miou_tta=44.27,
        memory_gb=12.6,
        fps=13.97,
    )
    return config
