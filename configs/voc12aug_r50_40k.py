"""NonLocalNet R-50-D8 on Pascal VOC 2012 + Aug: 512x512 crops, 40k steps of 16 images.

    python -m nonlocal_jax.main --config=configs/voc12aug_r50_40k.py

Published: mIoU 76.65, 77.47 with ms+flip.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import common


def get_config() -> ConfigDict:
    """The row's config."""
    config = common.voc12aug()
    config.total_steps = 40_000
    config.eval_every = config.checkpoint_every = 4_000
    config.published = common.published(
        "nonlocal_r50-d8_512x512_40k_voc12aug",
        "20200614_000028-0139d4a9",
        miou=76.65,
        miou_tta=77.47,
    )
    return config
