"""ADE20K as in SceneParse150: 20210 and 2000 photographs, 150 classes.

    nonlocal-jax prepare ade20k --download          # fetches, unpacks, verifies, writes
    nonlocal-jax prepare ade20k --source=DIR        # from a download that is already here
    tfds build data/ade20k --manual_dir=DIR --data_dir=data

DIR holds ADEChallengeData2016.zip, or ADEChallengeData2016/ unpacked from it. The masks' 0 is
"other" and becomes 255; k becomes k - 1.
"""

import pathlib

from nonlocal_jax.inputs.datasets.ade20k import FOLDERS
from nonlocal_jax.inputs.datasets.dataset import Pair
from nonlocal_jax.inputs.preparation.builder import SegmentationBuilder
from nonlocal_jax.inputs.preparation.parts import Part
from nonlocal_jax.inputs.preparation.trees import split_folder

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
    USUAL_SOURCE = "data/ade"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
        Give --download, or download
        http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip (967 MB).
    """

    def list_pairs(self, source: pathlib.Path, split: str) -> list[Pair]:
        """See SegmentationBuilder."""
        root = TREE.locate(source)
        for kind in ("images", "annotations"):
            split_folder(split_folder(root, kind), FOLDERS[split])
        return self.dataset.pairs(root, split)
