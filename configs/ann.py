"""ANN, asymmetric non-local network (Zhu et al. 2019, arXiv 1908.07678).

    python -m nonlocal_jax.main --config=configs/ann.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200605_095211-049fc292", 77.4, 78.57, 6.0, 3.71),
    "cityscapes_r101_512x1024_40k": ("20200605_095243-adf6eece", 76.55, 78.85, 9.5, 2.55),
    "cityscapes_r50_512x1024_80k": ("20200607_101911-5a9ad545", 77.34, 78.65, None, None),
    "cityscapes_r101_512x1024_80k": ("20200607_013728-aceccc6e", 77.14, 78.81, None, None),
    "cityscapes_r50_769x769_40k": ("20200530_025712-2b46b04d", 78.89, 80.46, 6.8, 1.7),
    "cityscapes_r101_769x769_40k": ("20200530_025720-059bff28", 79.32, 80.94, 10.7, 1.15),
    "cityscapes_r50_769x769_80k": ("20200607_044426-cc7ff323", 78.88, 80.57, None, None),
    "cityscapes_r101_769x769_80k": ("20200607_013713-a9d4be8d", 78.8, 80.34, None, None),
    "ade20k_r50_80k": ("20200615_014818-26f75e11", 41.01, 42.3, 9.1, 21.01),
    "ade20k_r101_80k": ("20200615_014818-c0153543", 42.94, 44.18, 12.5, 14.12),
    "ade20k_r50_160k": ("20200615_231733-892247bc", 41.74, 42.62, None, None),
    "ade20k_r101_160k": ("20200615_231733-955eb1ec", 42.94, 44.06, None, None),
    "voc12aug_r50_20k": ("20200617_222246-dfcb1c62", 74.86, 76.13, 6.0, 20.92),
    "voc12aug_r101_20k": ("20200617_222246-2fad0042", 77.47, 78.7, 9.5, 13.94),
    "voc12aug_r50_40k": ("20200613_231314-b5dac322", 76.56, 77.51, None, None),
    "voc12aug_r101_40k": ("20200613_231314-bd205bbe", 76.7, 78.06, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "ann/ann")
    config.model.decode_head = ConfigDict({"name": "ann"})
    return config
