"""Pascal VOC 2012 with SBD's masks for training ("Aug"): 20 kinds of object and background."""

import pathlib
from collections.abc import Iterator

import numpy as np

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import (
    Dataset,
    Pair,
    distinct_colours,
    no_mask,
    prepare_remedy,
)

CLASS_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
LISTS = {
    "train": (("train", "SegmentationClass"), ("aug", "SegmentationClassAug")),
    "val": (("val", "SegmentationClass"),),
}


def build(data: schema.Data, data_dir: str) -> Dataset:
    """The data set."""
    return Dataset(
        name="voc12aug",
        class_names=CLASS_NAMES,
        palette=np.concatenate([np.zeros((1, 3), np.uint8), distinct_colours(20)]),
        counts={"train": 10582, "val": 1449},
        roots=("data/voc12aug", "data/VOCdevkit/VOC2012"),
        inner=("VOCdevkit/VOC2012", "VOC2012"),
        marker="JPEGImages",
        list_pairs=list_pairs,
        remedy=prepare_remedy("voc12aug"),
    )


def list_pairs(root: pathlib.Path, split: str) -> Iterator[Pair]:
    """Training: train.txt with VOC's own masks, then aug.txt, sorted, with the masks of SBD.

    Raises:
      UserError: a list, or a file that it names, is missing.
    """
    for file, folder in LISTS[split]:
        listing = root / "ImageSets" / "Segmentation" / f"{file}.txt"
        if not listing.is_file():
            raise UserError(
                f"voc12aug: {listing} is missing. `nonlocal-jax prepare voc12aug` makes "
                "the whole set from VOC 2012 and SBD."
            )
        stems = listing.read_text().split()
        # The reference's converter writes aug.txt in the order of a Python set, so it is sorted.
        for stem in sorted(stems) if file == "aug" else stems:
            image = root / "JPEGImages" / f"{stem}.jpg"
            label = root / folder / f"{stem}.png"
            if not image.is_file():
                raise UserError(f"{image}, listed in {listing}, is missing.")
            if not label.is_file():
                raise no_mask(image, str(label))
            yield Pair(image.name, image, label)
