"""Cityscapes, finely annotated: street scenes, 19 of its 34 classes."""

import pathlib
from collections.abc import Iterator

import numpy as np

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.inputs.datasets.dataset import (
    UNKNOWN,
    Dataset,
    LabelTable,
    Pair,
    hex_palette,
    no_mask,
    prepare_remedy,
)
from nonlocal_jax.inputs.listing import files_below

IMAGE_ENDING = "_leftImg8bit.png"
EVALUATED = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # published ids, by train label

CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c "
    "ff0000 00008e 000046 003c64 005064 0000e6 770b20"
)


def build(data: schema.Data, data_dir: str) -> Dataset:
    """The data set."""
    return Dataset(
        name="cityscapes",
        class_names=CLASS_NAMES,
        palette=hex_palette(PALETTE),
        counts={"train": 2975, "val": 500},
        roots=("data/cityscapes",),
        marker="leftImg8bit",
        list_pairs=list_pairs,
        own_values=EVALUATED,
        remedy=prepare_remedy("cityscapes"),
    )


def list_pairs(root: pathlib.Path, split: str) -> Iterator[Pair]:
    """Takes labelTrainIds, which MMSegmentation users make, else the published labelIds.

    Raises:
      UserError: an image has neither.
    """
    images, labels, table = root / "leftImg8bit" / split, root / "gtFine" / split, label_table()
    for name in files_below(images, (IMAGE_ENDING.lower(),)).files:
        stem = labels / name[: -len(IMAGE_ENDING)]
        train_ids = stem.with_name(stem.name + "_gtFine_labelTrainIds.png")
        ids = stem.with_name(stem.name + "_gtFine_labelIds.png")
        if train_ids.is_file():
            yield Pair(name, images / name, train_ids)
        elif ids.is_file():
            yield Pair(name, images / name, ids, table)
        else:
            raise no_mask(images / name, f"{train_ids.name} or {ids.name} in {ids.parent}")


def label_table() -> LabelTable:
    """Published id to train label; -1 (license plate) and ids that do not count are ignored."""
    table = np.full(256, UNKNOWN, np.uint8)
    table[:34] = IGNORED
    table[255] = IGNORED  # -1 in a uint8 file
    table[list(EVALUATED)] = range(len(EVALUATED))
    return table
