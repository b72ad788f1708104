"""Examples and training batches of a run.

The i-th training example of a run is a pure function of the seed and i. Batch t holds the examples
from t * batch_size on. A host makes the rows that its devices hold. So the global batch does not
depend on the number of hosts, worker processes and threads, and a run resumes by starting at a
step.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import (
    cores,
    datasets,
    decode,
    opencv,
    order,
    photometric,
    sources,
    transforms,
    watchdog,
)
from nonlocal_jax.inputs.datasets.dataset import SPLITS, Dataset
from nonlocal_jax.inputs.example import Source

TrainingBatch = dict[str, np.ndarray]
"""image: uint8 [n, h, w, 3] RGB; label: uint8 [n, h, w], 255 ignored; size: int32 [n, 2], height
and width of the part of an image that is no padding (which is at the right and bottom)."""

BUFFERED_BATCHES = 2  # prepared besides the one in use, so the device does not wait for the host
SAMPLES = 5  # of a split, decoded before a run starts
CORES_FOR_WORKERS = 4  # with fewer cores, threads are as fast as processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The training and validation data of a run.

    Attributes:
      data: the data set and its augmentation.
      data_dir: its folder; empty for its usual folders.
      num_classes: number of classes of the network.
      batch_size: the global batch size.
      seed: seed of the order and the augmentation.
    """

    data: schema.Data
    data_dir: str = ""
    num_classes: int
    batch_size: int = 1
    seed: int = 0

    @classmethod
    def of(cls, config: schema.Config) -> "Inputs":
        """The data of a config's run."""
        return cls(
            data=config.data,
            data_dir=config.data_dir,
            num_classes=config.model.num_classes,
            batch_size=config.batch_size,
            seed=config.seed,
        )

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The description of the data set.

        Raises:
          UserError: there is none of that name, its class list cannot be read, or its classes are
            not the network's.
        """
        dataset = datasets.describe(self.data, self.data_dir)
        order.check_classes(self.data.name, dataset.num_classes, self.num_classes)
        return dataset

    def open(self, split: str) -> Source:
        """The decoded examples of a split, "train" or "val".

        Raises:
          UserError: the data set is not there; the message has the command that gets it.
        """
        return sources.open_source(
            self.dataset,
            split,
            data_dir=self.data_dir,
            kind=self.data.source,
            most_pixels=self.data.max_pixels,
        )

    def check(self) -> None:
        """Finds out in a moment whether there is something to train on, and to evaluate on.

        A few examples of each split are decoded, so that masks of another kind are told at once.

        Raises:
          UserError: a split is missing or empty, an image has no mask, the classes are not the
            network's, or an example is bad and config.data.on_bad_example is "raise".
        """
        for split in SPLITS:
            source = self.open(split)
            for index in np.unique(np.linspace(0, len(source) - 1, SAMPLES, dtype=int)):
                try:
                    source[int(index)]
                except UserError:
                    if self.data.on_bad_example == "raise":
                        raise

    def train_batches(
        self, *, start_step: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[TrainingBatch]:
        """Yields this host's part of the training batches, without end.

        Args:
          start_step: the number of batches that the run has used already.
          rows: the rows of each global batch that this host makes; by default all.

        Raises:
          UserError: an example is bad, or a worker is gone.
        """
        source = self.open("train")
        rows = range(self.batch_size) if rows is None else rows
        shard = order.HostShard(self.train_examples(source), self.batch_size, start_step, rows)
        batches = grain.MapDataset.source(shard).batch(len(rows))
        threads = self.data.num_threads if self.data.num_threads > 0 else cores.usable()
        workers = self.data.num_workers
        if workers < 0:
            workers = default_workers(source, cores.usable())
        read = grain.ReadOptions(
            num_threads=1 if workers else threads,
            prefetch_buffer_size=1 if workers else max(threads, BUFFERED_BATCHES),
        )
        iterable = batches.to_iter_dataset(read)
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers)
            iterable = iterable.mp_prefetch(options, watchdog.worker_starts)
        opencv.use_one_thread()
        return watchdog.guarded(iterable, buffered=BUFFERED_BATCHES)

    def train_examples(self, source: Source | None = None) -> grain.MapDataset:
        """The endless augmented examples of the run, by index. Each epoch is shuffled anew.

        Args:
          source: the training split, if it is open already.

        Returns:
          a dataset whose i-th element holds image, label and size, as a TrainingBatch has per
          image.
        """
        source = self.open("train") if source is None else source
        parts = self._parts(source)
        if self.data.on_bad_example == "skip":
            source = sources.SkippingSource(source)
        examples = order.in_order(_Elements(source), self.seed, parts)
        for transform in self.augmentations():
            examples = examples.random_map(transform)
        return examples.map(transforms.Pad(self.data.crop_size))

    def augmentations(self) -> list[grain.transforms.RandomMap]:
        """The random transforms, in order, without those of probability 0."""
        data = self.data
        chosen: list[grain.transforms.RandomMap] = [
            transforms.RandomResizedCrop(
                scale=data.scale,
                ratio_range=data.ratio_range,
                crop_size=data.crop_size,
                max_class_fraction=data.max_class_fraction,
            )
        ]
        if data.flip_probability:
            chosen.append(transforms.RandomFlip(data.flip_probability))
        if data.vertical_flip_probability:
            chosen.append(transforms.RandomFlip(data.vertical_flip_probability, axis=0))
        if data.rotate_probability:
            chosen.append(transforms.RandomRotate(data.rotate_probability, data.rotate_degrees))
        if data.photometric_distortion:
            chosen.append(photometric.PhotometricDistortion())
        if data.cutout_probability:
            chosen.append(
                transforms.RandomCutout(
                    data.cutout_probability, data.cutout_holes, data.cutout_size
                )
            )
        return chosen

    def batch_indices(self, step: int) -> list[int]:
        """Indices of the examples in the global batch of a step (from 1).

        They are indices of the training split, before `on_bad_example` replaces bad examples.
        """
        source = self.open("train")
        parts = self._parts(source)
        return order.batch_indices(len(source), step, self.batch_size, self.seed, parts)

    def _parts(self, source: Source) -> list[order.Part]:
        """The parts of a training split whose examples are not taken equally often."""
        weights = self.dataset.weights
        if not weights or not isinstance(source, sources.FolderSource):
            return []
        return order.parts(source.part_sizes(len(weights)), weights)

    def describe_batch(self, step: int) -> str:
        """A sentence that says which examples the batch of a step holds."""
        return order.describe_batch("examples", self.batch_indices(step))


def default_workers(source: Source, cores: int) -> int:
    """The number of worker processes if config.data.num_workers is -1.

    Threads are faster if the work releases Python's lock. The fast PNG decoder does not, so PNG
    images are read by processes if there are enough cores. One core is left free.
    """
    if cores < CORES_FOR_WORKERS or not isinstance(source, sources.EncodedSource):
        return 0
    return cores - 1 if decode.is_png(source.encoded(0).image) else 0


class _Elements:
    """The examples of a source as dicts for the transforms: {"image", "label"}."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> transforms.Element:
        example = self._source[index]
        return {"image": example.image, "label": example.label}
