"""NonLocalNet R-50-D8 on Pascal VOC 2012 + Aug: 512x512 crops, 20k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/voc12aug_r50_20k.py

Published: mIoU 76.20, 77.12 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.voc12aug()
    config.published = common.published(
        "nonlocal_r50-d8_512x512_20k_voc12aug",
        "20200617_222613-07f2a57c",
        miou=76.20,
        miou_tta=77.12,
        memory_gb=6.4,
        fps=21.21,
    )
    return config
