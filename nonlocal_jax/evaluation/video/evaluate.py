"""Tests a network on the validation videos, over all devices and processes.

The protocol is that of the paper (arXiv 1711.07971, section 4.1): clips at even distances, three
crops of each, the network applied fully convolutionally, and the mean of all probabilities.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from nonlocal_jax.config.video import VideoConfig, VideoEval
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.batching import Log, Progress
from nonlocal_jax.evaluation.video.scores import (
    LEFT_OUT,
    SHOWN,
    VideoScores,
    first_classes,
    rank_of,
)
from nonlocal_jax.evaluation.video.views import Sizes, Variables, ViewProgram
from nonlocal_jax.inputs.video.loader import TestVideos, VideoInputs
from nonlocal_jax.inputs.video.transforms import Video
from nonlocal_jax.models.video_network import VideoNetwork
from nonlocal_jax.runtime import console

OnBad = Callable[[str], None]
CROPS = {"three": 3, "center": 1}


def warn(reason: str) -> None:
    """Logs why a video was left out."""
    logging.warning("Left out: %s", reason)


@dataclasses.dataclass(frozen=True)
class VideoEvaluation:
    """Everything that a test depends on, except for the variables of the network.

    Its program is compiled once, however often it runs.

    Attributes:
      network: the network, as it is trained or folded.
      inputs: the data, and the views of a video.
      mesh: the devices.
      batch_size: views in a step over all processes, a multiple of the groups of devices.
    """

    network: VideoNetwork
    inputs: VideoInputs
    mesh: Mesh
    batch_size: int

    @classmethod
    def of(cls, config: VideoConfig, network: VideoNetwork, mesh: Mesh) -> "VideoEvaluation":
        """The test of a config, with all views."""
        groups: int = mesh.shape["data"] * mesh.shape["fsdp"]
        size = -(-config.eval.batch_size // groups) * groups
        return cls(network=network, inputs=VideoInputs.of(config), mesh=mesh, batch_size=size)

    @classmethod
    def in_training(
        cls, config: VideoConfig, network: VideoNetwork, mesh: Mesh
    ) -> "VideoEvaluation":
        """The test of a config with the fewer views of evaluations during training."""
        views = dataclasses.replace(
            config.eval, clips=config.eval.training_clips, crops="center", flip=False
        )
        return cls.of(dataclasses.replace(config, eval=views), network, mesh)

    @cached_property
    def program(self) -> ViewProgram:
        """The program that is applied to views."""
        frames, side = self.inputs.data.frames, self.inputs.eval.crop_size
        return ViewProgram(self.network, self.mesh, Sizes(self.batch_size, frames, side))

    @property
    def views(self) -> int:
        """Views of a video."""
        return view_count(self.inputs.eval)

    def run(
        self,
        variables: Variables,
        *,
        limit: int | None = None,
        videos: Sequence[str] | None = None,
        between_batches: Callable[[], None] = lambda: None,
        on_bad: OnBad = warn,
        log: Log = console.say,
    ) -> VideoScores:
        """Scores of the network with some variables.

        Args:
          variables: its arrays, on the mesh.
          limit: test the first videos only, this many.
          videos: test the videos of these names only.
          between_batches: called in every process after each step. An exception ends the test.
          on_bad: called with the reason for each video that is left out, in the process that reads
            it (config.data.on_bad_example).
          log: gets messages on progress.

        Raises:
          UserError: the data set is not there, a video is bad (and config.data.on_bad_example is
            "raise"), or the network's probabilities are not finite.
        """
        source = self.inputs.open("val")
        chosen = choose(source, limit=limit, videos=videos)
        mine = _of_this_process(len(chosen))
        read = _reader(source, chosen, on_bad if self._skips else None)
        table = _Table(len(chosen))
        progress = Progress(len(chosen), log, unit="videos")
        with progress.compiling(f"for {self.batch_size} views"):
            self.program.compile(variables)
        results = self.program.means(variables, read, mine, self.views, between_batches)
        for number, video, mean in results:
            table.add(number, video.label, mean)
            progress.add(min(jax.process_count(), len(chosen)))
        progress.finish()
        labels, ranks, classes, probabilities = table.gathered()
        return VideoScores(
            names=[source.name(index) for index in chosen],
            labels=labels,
            ranks=ranks,
            classes=classes,
            probabilities=probabilities,
            class_names=self.inputs.dataset.class_names,
        )

    @property
    def _skips(self) -> bool:
        return self.inputs.data.on_bad_example == "skip"


def view_count(settings: VideoEval) -> int:
    """Views of a video: clips x crops, and each of them mirrored with `flip`."""
    return settings.clips * CROPS[settings.crops] * (1 + settings.flip)


def choose(
    source: TestVideos, *, limit: int | None = None, videos: Sequence[str] | None = None
) -> list[int]:
    """Indices of some videos of a split, in its order.

    Args:
      source: the split.
      limit: the first ones only, this many.
      videos: those of these names only.

    Raises:
      UserError: the split has no video of a name.
    """
    if videos is None:
        return list(range(len(source)))[:limit]
    numbers = {source.name(index): index for index in range(len(source))}
    missing = [name for name in videos if name not in numbers]
    if missing:
        raise UserError(
            f"The validation split has no video {missing[0]}. Its first one is {source.name(0)}."
        )
    return sorted({numbers[name] for name in videos})[:limit]


def _of_this_process(count: int) -> list[int]:
    """The videos of this process: every so many of them, and -1 where others have one more."""
    processes = jax.process_count()
    each = -(-count // processes)
    mine = [jax.process_index() + processes * i for i in range(each)]
    return [number if number < count else -1 for number in mine]


def _reader(
    source: TestVideos, chosen: Sequence[int], on_bad: OnBad | None
) -> Callable[[int], Video | None]:
    """Reads the n-th of the chosen videos. What can't be read is reported, or raised."""

    def read(number: int) -> Video | None:
        try:
            return source[chosen[number]]
        except UserError as error:
            if on_bad is None:
                raise
            on_bad(str(error))
            return None

    return read


class _Table:
    """The results of all videos, of which each process fills in its own."""

    def __init__(self, count: int):
        self._labels = np.zeros(count, np.int32)
        self._ranks = np.zeros(count, np.int32)
        self._seen = np.zeros(count, np.int32)
        self._classes = np.zeros((count, SHOWN), np.int32)
        self._probabilities = np.zeros((count, SHOWN), np.float32)
        self._shown = SHOWN

    def add(self, number: int, label: int, probabilities: np.ndarray) -> None:
        first = first_classes(probabilities)
        self._shown = len(first)
        self._labels[number], self._seen[number] = label, 1
        self._ranks[number] = rank_of(probabilities, label)
        self._classes[number, : len(first)] = first
        self._probabilities[number, : len(first)] = probabilities[first]

    def gathered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Labels, ranks, first classes and their probabilities, from all processes."""
        arrays = self._labels, self._ranks, self._classes, self._probabilities, self._seen
        if jax.process_count() > 1:  # each entry is 0 in all processes but one
            arrays = tuple(
                np.sum(part, axis=0, dtype=part.dtype)
                for part in multihost_utils.process_allgather(arrays)
            )
        labels, ranks, classes, probabilities, seen = arrays
        ranks = np.where(seen > 0, ranks, LEFT_OUT)
        return labels, ranks, classes[:, : self._shown], probabilities[:, : self._shown]
