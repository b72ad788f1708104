"""CamVid at 480x360 as in SegNet's tutorial: driving scenes, 11 classes."""

from nonlocal_jax.config import schema
from nonlocal_jax.inputs.datasets.dataset import Dataset, hex_palette, prepare_remedy

CLASS_NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car",
    "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"


def build(data: schema.Data, data_dir: str) -> Dataset:
    """The data set."""
    return Dataset(
        name="camvid",
        class_names=CLASS_NAMES,
        palette=hex_palette(PALETTE),
        counts={"train": 367, "val": 101},
        roots=("data/camvid",),
        remedy=prepare_remedy("camvid"),
    )
