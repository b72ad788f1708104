"""DANet, dual attention (Fu et al. 2019, arXiv 1809.02983).

    python -m nonlocal_jax.main --config=configs/da.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200605_191324-c0dbfa5f", 78.74, None, 7.4, 2.66),
    "cityscapes_r101_512x1024_40k": ("20200605_200831-c57a7157", 80.52, None, 10.9, 1.99),
    "cityscapes_r50_512x1024_80k": ("20200607_133029-2bfa2293", 79.34, None, None, None),
    "cityscapes_r101_512x1024_80k": ("20200607_132918-955e6350", 80.41, None, None, None),
    "cityscapes_r50_769x769_40k": ("20200530_025703-76681c60", 78.88, 80.62, 8.8, 1.56),
    "cityscapes_r101_769x769_40k": ("20200530_025717-dcb7fd4e", 79.88, 81.47, 12.8, 1.07),
    "cityscapes_r50_769x769_80k": ("20200607_132954-495689b4", 79.27, 80.96, None, None),
    "cityscapes_r101_769x769_80k": ("20200607_132918-f3a929e7", 80.47, 82.02, None, None),
    "ade20k_r50_80k": ("20200615_015125-edb18e08", 41.66, 42.9, 11.5, 21.2),
    "ade20k_r101_80k": ("20200615_015126-d0357c73", 43.64, 45.19, 15.0, 14.18),
    "ade20k_r50_160k": ("20200616_082340-9cb35dcd", 42.45, 43.25, None, None),
    "ade20k_r101_160k": ("20200616_082348-23bf12f9", 44.17, 45.02, None, None),
    "voc12aug_r50_20k": ("20200618_070026-9e9e3ab3", 74.45, 75.69, 6.5, 20.94),
    "voc12aug_r101_20k": ("20200618_070026-d48d23b2", 76.02, 77.23, 9.9, 13.76),
    "voc12aug_r50_40k": ("20200613_235526-426e3a64", 76.37, 77.29, None, None),
    "voc12aug_r101_40k": ("20200613_223031-788e232a", 76.51, 77.32, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "danet/danet")
    config.model.decode_head = ConfigDict({"name": "da"})
    return config
