"""NonLocalNet R-101-D8 on Pascal VOC 2012 + Aug: 512x512 crops, 20k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/voc12aug_r101_20k.py

Published: mIoU 78.15, 78.86 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.voc12aug()
    common.resnet101(config)
    config.published = common.published(
        "nonlocal_r101-d8_512x512_20k_voc12aug",
        "20200617_222615-948c68ab",
        miou=78.15,
        miou_tta=78.86,
        memory_gb=9.8,
        fps=14.01,
    )
    return config
