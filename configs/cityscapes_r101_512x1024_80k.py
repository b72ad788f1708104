"""NonLocalNet R-101-D8 on Cityscapes: 512x1024 crops, 80k steps of 8 images.

    python -m nonlocal_jax.main --config=configs/cityscapes_r101_512x1024_80k.py

Published: mIoU 78.93.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.cityscapes()
    common.resnet101(config)
    config.total_steps = 80_000
    config.eval_every = config.checkpoint_every = 8_000
    config.published = common.published(
        "nonlocal_r101-d8_512x1024_80k_cityscapes",
        "20200607_183411-32700183",
        miou=78.93,
    )
    return config
