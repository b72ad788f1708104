"""Clips and training batches of a run on videos.

The promises are those of `nonlocal_jax.inputs.loader`: the i-th training clip of a run is a pure
function of the seed and i, so batches do not depend on the number of hosts, worker processes and
threads, and a run resumes by starting at a step.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from nonlocal_jax.config import video
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import cores, opencv, order, watchdog
from nonlocal_jax.inputs.datasets.dataset import SPLITS
from nonlocal_jax.inputs.loader import BUFFERED_BATCHES, SAMPLES
from nonlocal_jax.inputs.sources import SkipLog, all_bad
from nonlocal_jax.inputs.video import dataset, sources, transforms
from nonlocal_jax.inputs.video.dataset import VideoDataset
from nonlocal_jax.inputs.video.example import EncodedVideos

TrainingBatch = dict[str, np.ndarray]
"""clip: uint8 [n, t, s, s, 3] RGB; label: int32 [n]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInputs:
    """The training and validation videos of a run.

    Attributes:
      data: the data set, and how clips are sampled and augmented.
      eval: the views of a video in testing.
      data_dir: the folder of the data set; empty for its usual folders.
      num_classes: number of classes of the network.
      batch_size: the global batch size.
      seed: seed of the order and the augmentation.
    """

    data: video.VideoData
    eval: video.VideoEval = dataclasses.field(default_factory=video.VideoEval)
    data_dir: str = ""
    num_classes: int
    batch_size: int = 1
    seed: int = 0

    @classmethod
    def of(cls, config: video.VideoConfig) -> "VideoInputs":
        """The data of a config's run."""
        return cls(
            data=config.data,
            eval=config.eval,
            data_dir=config.data_dir,
            num_classes=config.model.num_classes,
            batch_size=config.batch_size,
            seed=config.seed,
        )

    @functools.cached_property
    def dataset(self) -> VideoDataset:
        """The description of the data set.

        Raises:
          UserError: there is none of that name, its classes cannot be read, or are not the
            network's.
        """
        described = dataset.describe(self.data, self.data_dir)
        order.check_classes(self.data.name, described.num_classes, self.num_classes)
        return described

    def encoded(self, split: str) -> EncodedVideos:
        """The stored videos of a split, "train" or "val".

        Raises:
          UserError: the data set is not there; the message says how to get it.
        """
        return sources.open_videos(
            self.dataset, split, data_dir=self.data_dir, kind=self.data.source
        )

    def open(self, split: str) -> "TestVideos":
        """The videos of a split with their views in testing.

        Raises:
          UserError: the data set is not there; the message says how to get it.
        """
        return TestVideos(self.encoded(split), self.data, self.eval)

    def check(self) -> None:
        """Finds out in a moment whether there is something to train on, and to evaluate on.

        A few videos of each split are decoded.

        Raises:
          UserError: a split is missing or empty, the classes are not the network's, or a video is
            bad and config.data.on_bad_example is "raise".
        """
        for split in SPLITS:
            videos = self.encoded(split)
            clips = RandomClip(videos, dataclasses.replace(self.data, on_bad_example="raise"))
            for index in np.unique(np.linspace(0, len(videos) - 1, SAMPLES, dtype=int)):
                try:
                    clips.random_map(int(index), np.random.default_rng(0))
                except UserError:
                    if self.data.on_bad_example == "raise":
                        raise

    def train_batches(
        self, *, start_step: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[TrainingBatch]:
        """Yields this host's part of the training batches, without end.

        Threads decode videos; PyAV and OpenCV let them run at the same time.

        Args:
          start_step: the number of batches that the run has used already.
          rows: the rows of each global batch that this host makes; by default all.

        Raises:
          UserError: a video is bad, or a worker is gone.
        """
        rows = range(self.batch_size) if rows is None else rows
        shard = order.HostShard(self.train_examples(), self.batch_size, start_step, rows)
        threads = self.data.num_threads if self.data.num_threads > 0 else cores.usable()
        workers = max(self.data.num_workers, 0)
        # Clips, not batches, are made in parallel: a batch may take hundreds of megabytes.
        read = grain.ReadOptions(
            num_threads=1 if workers else threads,
            prefetch_buffer_size=1 if workers else threads,
        )
        iterable = grain.MapDataset.source(shard).to_iter_dataset(read)
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers)
            iterable = iterable.mp_prefetch(options, watchdog.worker_starts)
        opencv.use_one_thread()
        return watchdog.guarded(iterable.batch(len(rows)), buffered=BUFFERED_BATCHES)

    def train_examples(self) -> grain.MapDataset:
        """The endless training clips of the run, by index. Each epoch is shuffled anew.

        Returns:
          a dataset whose i-th element holds clip and label, as a TrainingBatch has per clip.
        """
        videos = self.encoded("train")
        indices = order.in_order(range(len(videos)), self.seed)
        return indices.random_map(RandomClip(videos, self.data))

    def batch_indices(self, step: int) -> list[int]:
        """Indices of the videos in the global batch of a step (from 1).

        They are indices of the training split, before `on_bad_example` replaces bad videos.
        """
        return order.batch_indices(len(self.encoded("train")), step, self.batch_size, self.seed)

    def describe_batch(self, step: int) -> str:
        """A sentence that says which videos the batch of a step holds."""
        return order.describe_batch("videos", self.batch_indices(step))


class TestVideos:
    """Videos with their views in testing, by index.

    Args:
      videos: the stored videos.
      data: frames and frame_stride of a clip.
      settings: the views.
    """

    def __init__(self, videos: EncodedVideos, data: video.VideoData, settings: video.VideoEval):
        self._videos, self._data, self._settings = videos, data, settings

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> transforms.Video:
        encoded = self._videos[index]
        views = transforms.test_views(
            encoded, self._data.frames, self._data.frame_stride, self._settings
        )
        return transforms.Video(views, encoded.label, encoded.name)

    def name(self, index: int) -> str:
        """The name of a video, without decoding it."""
        return self._videos.name(index)


class RandomClip(grain.transforms.RandomMap):  # type: ignore[misc]
    """From the index of a training video to a random clip of it, with its label.

    With on_bad_example "skip", a bad video is replaced by the next good one, with the same random
    numbers. So the clip depends on the data and the generator only.

    Args:
      videos: the stored videos.
      data: how clips are sampled and augmented.
    """

    def __init__(self, videos: EncodedVideos, data: video.VideoData):
        self._videos, self._data = videos, data
        self._log = SkipLog() if data.on_bad_example == "skip" else None

    def random_map(self, index: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns clip (uint8 [t, s, s, 3]) and label (int32).

        Raises:
          UserError: the video is bad; with "skip", all videos are.
        """
        draws = transforms.Draws.of(self._data, rng)
        count = len(self._videos)
        for step in range(count):
            candidate = (int(index) + step) % count
            try:
                encoded = self._videos[candidate]
                clip = transforms.training_clip(encoded, self._data, draws)
                return {"clip": clip, "label": np.array(encoded.label, np.int32)}
            except UserError as error:
                if self._log is None:
                    raise
                self._log.add(candidate, error)
        raise all_bad(count)

    def skipped(self) -> list[int]:
        """The indices of the videos found bad so far, by any thread or worker."""
        return [] if self._log is None else self._log.indices()
