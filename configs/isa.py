"""ISANet, interlaced sparse self-attention (Huang et al. 2019, arXiv 1907.12273).

    python -m nonlocal_jax.main --config=configs/isa.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20210901_054739-981bd763", 78.49, 79.44, 5.869, 2.91),
    "cityscapes_r101_512x1024_40k": ("20210901_145553-293e6bd6", 79.58, 81.05, 9.425, 2.35),
    "cityscapes_r50_512x1024_80k": ("20210901_074202-89384497", 78.68, 80.25, 5.869, 2.91),
    "cityscapes_r101_512x1024_80k": ("20210901_145243-5b99c9b2", 80.32, 81.58, 9.425, 2.35),
    "cityscapes_r50_769x769_40k": ("20210903_050200-4ae7e65b", 78.7, 80.28, 6.759, 1.54),
    "cityscapes_r101_769x769_40k": ("20210903_111320-509e7224", 79.68, 80.95, 10.815, 0.92),
    "cityscapes_r50_769x769_80k": ("20210903_101126-99b54519", 79.29, 80.53, 6.759, 1.54),
    "cityscapes_r101_769x769_80k": ("20210903_111319-24f71dfa", 80.61, 81.59, 10.815, 0.92),
    "ade20k_r50_80k": ("20210903_124557-6ed83a0c", 41.12, 42.35, 9.0, 22.55),
    "ade20k_r101_80k": ("20210903_162056-68b235c2", 43.51, 44.38, 12.562, 10.56),
    "ade20k_r50_160k": ("20210903_104850-f752d0a3", 42.59, 43.07, 9.0, 22.55),
    "ade20k_r101_160k": ("20210903_211431-a7879dcd", 43.8, 45.4, 12.562, 10.56),
    "voc12aug_r50_20k": ("20210901_164838-79d59b80", 76.78, 77.79, 5.9, 23.08),
    "voc12aug_r101_20k": ("20210901_115805-3ccbf355", 78.46, 79.16, 9.465, 7.42),
    "voc12aug_r50_40k": ("20210901_151349-7d08a54e", 76.2, 77.22, 5.9, 23.08),
    "voc12aug_r101_40k": ("20210901_145814-bc71233b", 78.12, 79.04, 9.465, 7.42),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "isanet/isanet")
    config.model.decode_head = ConfigDict({"name": "isa"})
    return config
