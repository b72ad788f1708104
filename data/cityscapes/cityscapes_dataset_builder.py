"""Cityscapes, finely annotated: 2975 and 500 photographs of 1024x2048, 19 classes.

    nonlocal-jax prepare cityscapes --source=DIR
    tfds build data/cityscapes --manual_dir=DIR --data_dir=data

DIR holds leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or leftImg8bit/ and gtFine/
unpacked from them. The licence asks for a registration, so these are fetched by hand: README.md
says how. Labels are *_labelTrainIds.png where somebody made them, else they are made from
*_labelIds.png, else from *_polygons.json.
"""

import json
import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.cityscapes import IMAGE_ENDING, label_table
from nonlocal_jax.inputs.datasets.dataset import Pair
from nonlocal_jax.inputs.preparation.builder import SegmentationBuilder
from nonlocal_jax.inputs.preparation.parts import Part
from nonlocal_jax.inputs.preparation.trees import split_folder

IMAGES = Part(
    places=("leftImg8bit",),
    holds=".",
    archive="leftImg8bit_trainvaltest.zip",
    inside="leftImg8bit",
)
LABELS = Part(places=("gtFine",), holds=".", archive="gtFine_trainvaltest.zip", inside="gtFine")
# A label's id is its place here. "license plate" has the id -1, and is never painted.
NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground",
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail",
    "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "caravan", "trailer", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
UNPAINTED = "license plate"


class Builder(SegmentationBuilder):
    """Street scenes, 19 classes."""

    PARTS = (IMAGES, LABELS)
    USUAL_SOURCE = "data/cityscapes"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
        Accept its licence and register at https://www.cityscapes-dataset.com/register/, then
        download leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB) from
        https://www.cityscapes-dataset.com/downloads/.
    """

    def list_pairs(self, source: pathlib.Path, split: str) -> list[Pair]:
        """See SegmentationBuilder."""
        images = split_folder(IMAGES.locate(source), split)
        labels = split_folder(LABELS.locate(source), split)
        if any(labels.glob("*/*_gtFine_label*Ids.png")):
            return self.dataset.pairs(source, split)
        return _polygon_pairs(images, labels)

    def read_label(self, pair: Pair) -> UInt8[np.ndarray, "h w"]:
        """See SegmentationBuilder."""
        if pair.label_path.suffix != ".json":
            return super().read_label(pair)
        label: UInt8[np.ndarray, "h w"] = label_table()[paint_polygons(pair.label_path)]
        return label


def _polygon_pairs(images: pathlib.Path, labels: pathlib.Path) -> list[Pair]:
    pairs = []
    for image in sorted(images.glob(f"*/[!.]*{IMAGE_ENDING}")):
        name = image.relative_to(images).as_posix()
        polygons = labels / f"{name.removesuffix(IMAGE_ENDING)}_gtFine_polygons.json"
        if not polygons.is_file():
            raise UserError(
                f"{image} has no annotation: there is neither {polygons} nor a labelIds picture. "
                "gtFine was not downloaded or unpacked whole."
            )
        pairs.append(Pair(name, image, polygons, None))
    return pairs


def paint_polygons(path: pathlib.Path) -> UInt8[np.ndarray, "h w"]:
    """The label ids of an annotation, as the data set's own tools make *_labelIds.png from it.

    Later polygons cover earlier ones. Deleted objects are left out, "cargroup" counts as "car", and
    a name that is no label is an error.

    Args:
      path: *_polygons.json.

    Raises:
      UserError: the file is no annotation, or names an unknown label.
    """
    try:
        annotation = json.loads(path.read_text())
        picture = Image.new("L", (annotation["imgWidth"], annotation["imgHeight"]), 0)
        draw = ImageDraw.Draw(picture)
        for item in annotation["objects"]:
            name = item["label"]
            if name not in NAMES:  # "polegroup" is a label of its own
                name = name.removesuffix("group")
            if not item.get("deleted") and name != UNPAINTED:
                corners = [(x, y) for x, y in item["polygon"]]
                draw.polygon(corners, fill=NAMES.index(name))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a Cityscapes annotation ({error!r}). Download gtFine again."
        ) from error
    return np.asarray(picture)
