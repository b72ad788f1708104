"""The description of a data set of videos: class names, counts, and where its videos are.

The module of a data set has `TASK = "video"` and `build(data, data_dir) -> VideoDataset`.
"""

import dataclasses
from collections.abc import Callable

from nonlocal_jax.config import tables
from nonlocal_jax.config.video import VideoData
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import Description
from nonlocal_jax.inputs.video.example import EncodedVideos


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class VideoDataset(Description):
    """The description of one data set of videos.

    Attributes:
      generate: returns the videos of a split, for a data set without files.
    """

    generate: Callable[[str], EncodedVideos] | None = None

    def folders(self) -> dict[str, int]:
        """The label of each class by the name of its folder, which has no spaces."""
        return {name.replace(" ", "_"): label for label, name in enumerate(self.class_names)}


def describe(data: VideoData, data_dir: str = "") -> VideoDataset:
    """The data set that a config names.

    Args:
      data: its name and settings.
      data_dir: its folder; empty for its usual folders.

    Raises:
      UserError: there is none of that name, it has no videos, or its classes cannot be read.
    """
    module = tables.find("datasets", data.name, "data.name")
    if getattr(module, "TASK", "") != "video":
        raise UserError(
            f"config.data.name is {data.name!r}, which holds images; this config is for videos. "
            "Name a data set of videos, such as kinetics."
        )
    dataset: VideoDataset = module.build(data, data_dir)
    return dataset
