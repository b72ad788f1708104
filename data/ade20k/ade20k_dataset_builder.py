"""ADE20K as in SceneParse150: 20210 and 2000 photographs, 150 classes.

    python -m data.prepare ade20k --download          # fetches, unpacks, verifies, writes
    python -m data.prepare ade20k --source=DIR        # from a download that is already here
    tfds build data/ade20k --manual_dir=DIR --data_dir=data

DIR holds ADEChallengeData2016.zip, or ADEChallengeData2016/ unpacked from it. The masks' 0 is
"other" and becomes 255; k becomes k - 1.
"""

import pathlib

from data.builder import SegmentationBuilder
from data.parts import Part
from data.trees import split_folder
from nonlocal_jax.inputs.datasets import datasets

TREE = Part(
    places=("ADEChallengeData2016", "ade/ADEChallengeData2016", "."),
    holds="images",
    archive="ADEChallengeData2016.zip",
    inside="ADEChallengeData2016",
    url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    digest="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
)


class Builder(SegmentationBuilder):
    """Scenes, 150 classes."""

    PARTS = (TREE,)

    def list_pairs(self, source: pathlib.Path, split: str) -> list[datasets.Pair]:
        """See SegmentationBuilder."""
        root = TREE.locate(source)
        for kind in ("images", "annotations"):
            split_folder(
                split_folder(root, kind), {"train": "training", "val": "validation"}[split]
            )
        return datasets.list_pairs(self.dataset, root, split)
