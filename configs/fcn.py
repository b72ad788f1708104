"""FCN (Long, Shelhamer, Darrell 2015, arXiv 1411.4038): the network without a block.

    python -m nonlocal_jax.main --config=configs/fcn.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200604_192608-efe53f0d", 72.25, 73.36, 5.7, 4.17),
    "cityscapes_r101_512x1024_40k": ("20200604_181852-a883d3a1", 75.45, 76.58, 9.2, 2.66),
    "cityscapes_r50_512x1024_80k": ("20200606_113019-03aa804d", 73.61, 74.24, None, None),
    "cityscapes_r101_512x1024_80k": ("20200606_113038-3fb937eb", 75.13, 75.94, None, None),
    "cityscapes_r50_769x769_40k": ("20200606_113104-977b5d02", 71.47, 72.54, 6.5, 1.8),
    "cityscapes_r101_769x769_40k": ("20200606_113208-7d4ab69c", 73.93, 75.14, 10.4, 1.19),
    "cityscapes_r50_769x769_80k": ("20200606_195749-f5caeabc", 72.64, 73.32, None, None),
    "cityscapes_r101_769x769_80k": ("20200606_214354-45cbac68", 75.52, 76.61, None, None),
    "ade20k_r50_80k": ("20200614_144016-f8ac5082", 35.94, 37.94, 8.5, 23.49),
    "ade20k_r101_80k": ("20200615_014143-bc1809f7", 39.61, 40.83, 12.0, 14.78),
    "ade20k_r50_160k": ("20200615_100713-4edbc3b4", 36.1, 38.08, None, None),
    "ade20k_r101_160k": ("20200615_105816-fd192bd5", 39.91, 41.4, None, None),
    "voc12aug_r50_20k": ("20200617_010715-52dc5306", 67.08, 69.94, 5.7, 23.28),
    "voc12aug_r101_20k": ("20200617_010842-0bb4e798", 71.16, 73.57, 9.2, 14.81),
    "voc12aug_r50_40k": ("20200613_161222-5e2dbf40", 66.97, 69.04, None, None),
    "voc12aug_r101_40k": ("20200613_161240-4c8bcefd", 69.91, 72.38, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "fcn/fcn")
    config.model.decode_head = ConfigDict({"name": "fcn"})
    return config
