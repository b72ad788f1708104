"""Kinetics-400: videos of ten seconds, 400 human actions (arXiv 1705.06950).

The labels are the ranks of the class names in ASCII order.
"""

import functools
import importlib.resources

from nonlocal_jax.config.video import VideoData
from nonlocal_jax.inputs.datasets.dataset import prepare_remedy
from nonlocal_jax.inputs.video.dataset import VideoDataset

TASK = "video"
NAMES_FILE = "kinetics400.txt"
# Of the lists that the published models were trained and tested with.
COUNTS = {"train": 234_643, "val": 19_761}


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 400 names in the order of the labels."""
    text = importlib.resources.files(__package__).joinpath(NAMES_FILE).read_text(encoding="utf-8")
    return tuple(text.splitlines())


def build(data: VideoData, data_dir: str) -> VideoDataset:
    """The data set."""
    return VideoDataset(
        name="kinetics",
        class_names=class_names(),
        counts=COUNTS,
        roots=("data/kinetics",),
        remedy=prepare_remedy("kinetics"),
    )
