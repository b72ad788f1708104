"""NonLocalNet R-101-D8 on ADE20K: 512x512 crops, 160k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/ade20k_r101_160k.py

Published: mIoU 44.63, 45.79 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.ade20k()
    common.resnet101(config)
    config.total_steps = 160_000
    config.eval_every = config.checkpoint_every = 16_000
    config.published = common.published(
        "nonlocal_r101-d8_512x512_160k_ade20k",
        "20210827_221502-7881aa1a",
        miou=44.63,
        miou_tta=45.79,
    )
    return config
