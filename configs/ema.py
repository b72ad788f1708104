"""EMANet, expectation-maximization attention (Li et al. 2019, arXiv 1907.13426).

    python -m nonlocal_jax.main --config=configs/ema.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_80k": ("20200901_100301-c43fcef1", 77.59, 79.44, 5.4, 4.58),
    "cityscapes_r101_512x1024_80k": ("20200901_100301-2d970745", 79.1, 81.21, 6.2, 2.87),
    "cityscapes_r50_769x769_80k": ("20200901_100301-16f8de52", 79.33, 80.49, 8.9, 1.97),
    "cityscapes_r101_769x769_80k": ("20200901_100301-47a324ce", 79.62, 81.0, 10.1, 1.22),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "emanet/emanet")
    config.model.decode_head = ConfigDict({"name": "ema"})
    return config
