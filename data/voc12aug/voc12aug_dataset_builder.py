"""Pascal VOC 2012 with SBD's masks for training: 10582 and 1449 photographs, 21 classes.

    nonlocal-jax prepare voc12aug --download        # fetches, unpacks, verifies, writes
    nonlocal-jax prepare voc12aug --source=DIR      # from downloads that are already here
    tfds build data/voc12aug --manual_dir=DIR --data_dir=data

DIR holds VOCtrainval_11-May-2012.tar and benchmark.tgz, or what MMSegmentation users have:
VOC2012/ with VOCaug/dataset/ (SBD's .mat masks), or with SegmentationClassAug/ and aug.txt made
from them. Training is train.txt with VOC's own masks, then every picture of SBD that is in neither
VOC list, sorted by name.
"""

import pathlib

import numpy as np
import scipy.io
from jaxtyping import UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import Pair
from nonlocal_jax.inputs.preparation.builder import SegmentationBuilder
from nonlocal_jax.inputs.preparation.parts import Part
from nonlocal_jax.inputs.preparation.trees import names

VOC = Part(
    places=("VOC2012", "VOCdevkit/VOC2012", "."),
    holds="JPEGImages",
    archive="VOCtrainval_11-May-2012.tar",
    inside="VOCdevkit/VOC2012",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    digest="md5:6cd6e144f989b92b3379bac3b3de84fd",
)
SBD = Part(
    places=(
        "VOCaug/dataset",
        "VOCdevkit/VOCaug/dataset",
        "../VOCaug/dataset",
        "benchmark_RELEASE/dataset",
    ),
    holds="cls",
    archive="benchmark.tgz",
    inside="benchmark_RELEASE/dataset",
    url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
    digest="md5:82b4d87ceb2ed10f6038a1cba92111cb",
)


class Builder(SegmentationBuilder):
    """Photographs of 20 kinds of object and background."""

    PARTS = (VOC, SBD)
    USUAL_SOURCE = "data/VOCdevkit"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
        Give --download, or download
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar (2 GB) and
        https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz.
    """

    def list_pairs(self, source: pathlib.Path, split: str) -> list[Pair]:
        """See SegmentationBuilder."""
        root = VOC.locate(source)
        if split == "train" and not (root / "ImageSets/Segmentation/aug.txt").is_file():
            return _pairs_with_sbd(root, SBD.locate(source))
        return self.dataset.pairs(root, split)

    def read_label(self, pair: Pair) -> UInt8[np.ndarray, "h w"]:
        """See SegmentationBuilder."""
        if pair.label_path.suffix != ".mat":
            return super().read_label(pair)
        return read_sbd_mask(pair.label_path)


def _pairs_with_sbd(root: pathlib.Path, sbd: pathlib.Path) -> list[Pair]:
    train, val = (names(root / f"ImageSets/Segmentation/{split}.txt") for split in ("train", "val"))
    extra = set(names(sbd / "train.txt") + names(sbd / "val.txt")) - set(train) - set(val)
    labels = [root / f"SegmentationClass/{name}.png" for name in train]
    labels += [sbd / f"cls/{name}.mat" for name in sorted(extra)]
    pairs = [
        Pair(f"{label.stem}.jpg", root / f"JPEGImages/{label.stem}.jpg", label, None)
        for label in labels
    ]
    for pair in pairs:
        for path in (pair.image_path, pair.label_path):
            if not path.is_file():
                raise UserError(f"{path} is missing: the download was not unpacked whole.")
    return pairs


def read_sbd_mask(path: pathlib.Path) -> UInt8[np.ndarray, "h w"]:
    """The class mask of a .mat file of SBD: GTcls.Segmentation, 0..20 without ignored borders.

    Raises:
      UserError: the file is damaged or another one.
    """
    try:
        content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
        return np.asarray(content["GTcls"].Segmentation, np.uint8)
    except Exception as error:  # scipy lets errors of many kinds through from a damaged file
        raise UserError(f"{path} is not a mask of SBD ({error!r}). Download it again.") from error
