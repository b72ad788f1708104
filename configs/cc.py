"""CCNet, criss-cross attention (Huang et al. 2019, arXiv 1811.11721).

    python -m nonlocal_jax.main --config=configs/cc.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200616_142517-4123f401", 77.76, 78.87, 6.0, 3.32),
    "cityscapes_r101_512x1024_40k": ("20200616_142540-a3b84ba6", 76.35, 78.19, 9.5, 2.31),
    "cityscapes_r50_512x1024_80k": ("20200617_010421-869a3423", 79.03, 80.16, None, None),
    "cityscapes_r101_512x1024_80k": ("20200617_203935-ffae8917", 78.87, 79.9, None, None),
    "cityscapes_r50_769x769_40k": ("20200616_145125-76d11884", 78.46, 79.93, 6.8, 1.43),
    "cityscapes_r101_769x769_40k": ("20200617_101428-4f57c8d0", 76.94, 78.62, 10.7, 1.01),
    "cityscapes_r50_769x769_80k": ("20200617_010421-73eed8ca", 79.29, 81.08, None, None),
    "cityscapes_r101_769x769_80k": ("20200618_011502-ad3cd481", 79.45, 80.66, None, None),
    "ade20k_r50_80k": ("20200615_014848-aa37f61e", 41.78, 42.98, 8.8, 20.89),
    "ade20k_r101_80k": ("20200615_014848-1f4929a3", 43.97, 45.13, 12.2, 14.11),
    "ade20k_r50_160k": ("20200616_084435-7c97193b", 42.08, 43.13, None, None),
    "ade20k_r101_160k": ("20200616_000644-e849e007", 43.71, 45.04, None, None),
    "voc12aug_r50_20k": ("20200617_193212-fad81784", 76.17, 77.51, 6.0, 20.45),
    "voc12aug_r101_20k": ("20200617_193212-0007b61d", 77.27, 79.02, 9.5, 13.64),
    "voc12aug_r50_40k": ("20200613_232127-c2a15f02", 75.96, 77.04, None, None),
    "voc12aug_r101_40k": ("20200613_232127-c30da577", 77.87, 78.9, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "ccnet/ccnet")
    config.model.decode_head = ConfigDict({"name": "cc"})
    return config
