"""PSANet, point-wise spatial attention (Zhao et al., ECCV 2018).

    python -m nonlocal_jax.main --config=configs/psa.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200606_103117-99fac37c", 77.63, 79.04, 7.0, 3.17),
    "cityscapes_r101_512x1024_40k": ("20200606_001418-27b9cfa7", 79.14, 80.19, 10.5, 2.2),
    "cityscapes_r50_512x1024_80k": ("20200606_161842-ab60a24f", 77.24, 78.69, None, None),
    "cityscapes_r101_512x1024_80k": ("20200606_161823-0f73a169", 79.31, 80.53, None, None),
    "cityscapes_r50_769x769_40k": ("20200530_033717-d5365506", 77.99, 79.64, 7.9, 1.4),
    "cityscapes_r101_769x769_40k": ("20200530_035107-997da1e6", 78.43, 80.26, 11.9, 0.98),
    "cityscapes_r50_769x769_80k": ("20200606_225134-fe42f49e", 79.31, 80.91, None, None),
    "cityscapes_r101_769x769_80k": ("20200606_214550-7665827b", 79.69, 80.89, None, None),
    "ade20k_r50_80k": ("20200614_144141-835e4b97", 41.14, 41.91, 9.0, 18.91),
    "ade20k_r101_80k": ("20200614_185117-1fab60d4", 43.8, 44.75, 12.5, 13.13),
    "ade20k_r50_160k": ("20200615_161258-148077dd", 41.67, 42.95, None, None),
    "ade20k_r101_160k": ("20200615_161537-dbfa564c", 43.74, 45.38, None, None),
    "voc12aug_r50_20k": ("20200617_102413-2f1bbaa1", 76.39, 77.34, 6.9, 18.24),
    "voc12aug_r101_20k": ("20200617_110624-946fef11", 77.91, 79.3, 10.4, 12.63),
    "voc12aug_r50_40k": ("20200613_161946-f596afb5", 76.3, 77.35, None, None),
    "voc12aug_r101_40k": ("20200613_161946-1f560f9e", 77.73, 79.05, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "psanet/psanet")
    config.model.decode_head = ConfigDict({"name": "psa"})
    if row.startswith("ade20k"):
        config.model.decode_head.mask_size = (66, 66)
    return config
