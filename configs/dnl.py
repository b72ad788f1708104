"""DNL, the disentangled non-local network (Yin et al. 2020, arXiv 2006.06668).

    python -m nonlocal_jax.main --config=configs/dnl.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200904_233629-53d4ea93", 78.61, None, 7.3, 2.56),
    "cityscapes_r101_512x1024_40k": ("20200904_233629-9928ffef", 78.31, None, 10.9, 1.96),
    "cityscapes_r50_512x1024_80k": ("20200904_233629-58b2f778", 79.33, None, None, None),
    "cityscapes_r101_512x1024_80k": ("20200904_233629-758e2dd4", 80.41, None, None, None),
    "cityscapes_r50_769x769_40k": ("20200820_232206-0f283785", 78.44, 80.27, 9.2, 1.5),
    "cityscapes_r101_769x769_40k": ("20200820_171256-76c596df", 76.39, 77.77, 12.6, 1.02),
    "cityscapes_r50_769x769_80k": ("20200820_011925-366bc4c7", 79.36, 80.7, None, None),
    "cityscapes_r101_769x769_80k": ("20200821_051111-95ff84ab", 79.41, 80.68, None, None),
    "ade20k_r50_80k": ("20200826_183354-1cf6e0c1", 41.76, 42.99, 8.8, 20.66),
    "ade20k_r101_80k": ("20200826_183354-d820d6ea", 43.76, 44.91, 12.8, 12.54),
    "ade20k_r50_160k": ("20200826_183350-37837798", 41.87, 43.01, None, None),
    "ade20k_r101_160k": ("20200826_183350-ed522c61", 44.25, 45.78, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "dnlnet/dnl")
    config.model.decode_head = ConfigDict({"name": "dnl"})
    if row in ("cityscapes_r50_769x769_80k", "cityscapes_r101_769x769_80k"):
        config.optimizer.undecayed = ("theta", "phi")
    return config
