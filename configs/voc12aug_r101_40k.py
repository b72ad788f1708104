"""NonLocalNet R-101-D8 on Pascal VOC 2012 + Aug: 512x512 crops, 40k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/voc12aug_r101_40k.py

Published: mIoU 78.27, 79.12 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.voc12aug()
    common.resnet101(config)
    config.total_steps = 40_000
    config.eval_every = config.checkpoint_every = 4_000
    config.published = common.published(
        "nonlocal_r101-d8_512x512_40k_voc12aug",
        "20200614_000028-7e5ff470",
        miou=78.27,
        miou_tta=79.12,
    )
    return config
