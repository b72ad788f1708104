"""GCNet, global context (Cao et al. 2019, arXiv 1904.11492).

    python -m nonlocal_jax.main --config=configs/gc.py:cityscapes_r101_512x1024_80k

The argument is a row of ROWS.
"""

from ml_collections import ConfigDict

from nonlocal_jax.config import family

# A row's file by date and hash, mIoU, mIoU with ms+flip, training memory in GB, images per second.
ROWS = {
    "cityscapes_r50_512x1024_40k": ("20200618_074436-4b0fd17b", 77.69, 78.56, 5.8, 3.93),
    "cityscapes_r101_512x1024_40k": ("20200618_074436-5e62567f", 78.28, 79.34, 9.2, 2.61),
    "cityscapes_r50_512x1024_80k": ("20200618_074450-ef8f069b", 78.48, 80.01, None, None),
    "cityscapes_r101_512x1024_80k": ("20200618_074450-778ebf69", 79.03, 79.84, None, None),
    "cityscapes_r50_769x769_40k": ("20200618_182814-a26f4471", 78.12, 80.09, 6.5, 1.67),
    "cityscapes_r101_769x769_40k": ("20200619_092550-ca4f0a84", 78.95, 80.71, 10.5, 1.13),
    "cityscapes_r50_769x769_80k": ("20200619_092516-4839565b", 78.68, 80.66, None, None),
    "cityscapes_r101_769x769_80k": ("20200619_092628-8e043423", 79.18, 80.71, None, None),
    "ade20k_r50_80k": ("20200614_185146-91a6da41", 41.47, 42.85, 8.5, 23.38),
    "ade20k_r101_80k": ("20200615_020811-c3fcb6dd", 42.82, 44.54, 12.0, 15.2),
    "ade20k_r50_160k": ("20200615_224122-d95f3e1f", 42.37, 43.52, None, None),
    "ade20k_r101_160k": ("20200615_225406-615528d7", 43.69, 45.21, None, None),
    "voc12aug_r50_20k": ("20200617_165701-3cbfdab1", 76.42, 77.51, 5.8, 23.35),
    "voc12aug_r101_20k": ("20200617_165713-6c720aa9", 77.41, 78.56, 9.2, 14.8),
    "voc12aug_r50_40k": ("20200613_195105-9797336d", 76.24, 77.63, None, None),
    "voc12aug_r101_40k": ("20200613_185806-1e38208d", 77.84, 78.59, None, None),
}


def get_config(row: str = "") -> ConfigDict:
    """The config of a row."""
    config = family.row(row, ROWS, "gcnet/gcnet")
    config.model.decode_head = ConfigDict({"name": "gc"})
    return config
