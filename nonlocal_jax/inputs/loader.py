"""Examples and training batches, from a config.

The i-th training example of a run is a pure function of the seed and i. Batch t holds the examples
t * batch_size and on, and a host makes those rows of it that its devices hold: so the global batch
is the same for any number of hosts, worker processes and threads, and resuming is starting at a
step.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import decode, photometric, sources, transforms, watchdog
from nonlocal_jax.inputs.datasets import datasets

Batch = dict[str, np.ndarray]

BUFFERED_BATCHES = 2  # ready beside the one in use, so that the device never waits for the host
CORES_FOR_WORKERS = 4  # with fewer, threads keep up with processes


def dataset(config: ConfigDict) -> datasets.Dataset:
    """The facts of the config's data set: names, palette, counts.

    Raises:
      UserError: there is none of that name, or the class list cannot be read.
    """
    if config.data.name != "folder":
        return datasets.get(config.data.name)
    label_map = {int(value): int(label) for value, label in config.data.label_map.items()}
    return datasets.from_folder(
        config.data_dir,
        classes_file=config.data.classes_file,
        label_map=label_map,
        reduce_zero_label=config.data.reduce_zero_label,
    )


def open_source(config: ConfigDict, split: str) -> sources.Source:
    """The decoded examples of a split, "train" or "val".

    Raises:
      UserError: the data set is not there; the message has the command that brings it.
    """
    return sources.open_source(
        dataset(config), split, data_dir=config.data_dir, kind=config.data.source
    )


def check(config: ConfigDict) -> None:
    """Finds out in a moment whether there is something to train on; decodes nothing.

    Raises:
      UserError: a split is missing or empty, an image has no mask, the classes are not the
        model's, or a setting of config.data makes no sense.
    """
    classes = dataset(config).num_classes
    if config.model.num_classes != classes:
        raise UserError(
            f"config.model.num_classes is {config.model.num_classes}, and {config.data.name} has "
            f"{classes} classes: set --config.model.num_classes={classes}."
        )
    if config.data.on_bad_example not in ("raise", "skip"):
        raise UserError(
            f"config.data.on_bad_example is {config.data.on_bad_example!r}; it is raise or skip."
        )
    for split in datasets.SPLITS:
        open_source(config, split)


def train_batches(
    config: ConfigDict, *, start_step: int = 0, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
    """This host's part of the training batches, for ever.

    Args:
      config: of the run; config.batch_size is over all hosts.
      start_step: the number of batches that the run has seen already.
      rows: of each global batch, those that this host makes; all of them by default.

    Yields:
      image: uint8 [n, h, w, 3] RGB, n = len(rows); label: uint8 [n, h, w], 255 ignored; size:
      int32 [n, 2], height and width of the part that is no padding (which is at the right and
      bottom).

    Raises:
      UserError: an example is bad, or a worker is gone.
    """
    source = open_source(config, "train")
    examples = train_examples(config, source)
    rows = range(config.batch_size) if rows is None else rows
    shard = _HostShard(examples, config.batch_size, start_step, rows)
    batches = grain.MapDataset.source(shard).batch(len(rows))
    threads = config.data.num_threads if config.data.num_threads > 0 else os.cpu_count() or 1
    workers = config.data.num_workers
    if workers < 0:
        workers = default_workers(source, os.cpu_count() or 1)
    read = grain.ReadOptions(
        num_threads=1 if workers else threads,
        prefetch_buffer_size=1 if workers else max(threads, BUFFERED_BATCHES),
    )
    iterable = batches.to_iter_dataset(read)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers)
        iterable = iterable.mp_prefetch(options, watchdog.worker_starts)
    return watchdog.guarded(iterable, buffered=BUFFERED_BATCHES)


def default_workers(source: sources.Source, cores: int) -> int:
    """How many worker processes to take when config.data.num_workers leaves it open.

    Threads are faster wherever the work lets go of Python's lock, and the fast PNG decoder does
    not: PNG images take processes where there are cores for them, one of which is left free.
    """
    if cores < CORES_FOR_WORKERS or not isinstance(source, sources.EncodedSource):
        return 0
    return cores - 1 if decode.is_png(source.encoded(0).image) else 0


def train_examples(config: ConfigDict, source: sources.Source) -> grain.MapDataset:
    """The run's endless augmented examples by index: shuffled anew every epoch.

    Args:
      config: of the run.
      source: the training split.

    Returns:
      a dataset whose i-th element holds image, label and size, as `train_batches` has per image.
    """
    if config.data.on_bad_example == "skip":
        source = sources.SkippingSource(source)
    examples = _in_order(config, _Elements(source))
    for transform in augmentations(config):
        examples = examples.random_map(transform)
    return examples.map(transforms.Pad(tuple(config.data.crop_size)))


def batch_indices(config: ConfigDict, step: int) -> list[int]:
    """Which examples of the training split the batch of a step (from 1) holds, over all hosts.

    They number the split from 0, before config.data.on_bad_example puts others in their place.
    """
    order = _in_order(config, range(len(open_source(config, "train"))))
    first = (step - 1) * config.batch_size
    return [int(order[first + row]) for row in range(config.batch_size)]


def describe_batch(config: ConfigDict, step: int) -> str:
    """A sentence that says which examples the batch of a step holds."""
    numbers = ", ".join(str(index) for index in batch_indices(config, step))
    return f"Its batch holds the training examples {numbers} (numbered from 0)."


def _in_order(config: ConfigDict, examples: Any) -> grain.MapDataset:
    """The run's endless order of examples."""
    return grain.MapDataset.source(examples).seed(config.seed).shuffle().repeat()


def augmentations(config: ConfigDict) -> list[grain.transforms.RandomMap]:
    """The random transforms of config.data, in order; those of probability 0 are left out."""
    data = config.data
    chosen: list[grain.transforms.RandomMap] = [
        transforms.RandomResizedCrop(
            scale=tuple(data.scale),
            ratio_range=tuple(data.ratio_range),
            crop_size=tuple(data.crop_size),
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
                data.cutout_probability, data.cutout_holes, tuple(data.cutout_size)
            )
        )
    return chosen


class _Elements:
    """A source's examples as the transforms take them: {"image", "label"}."""

    def __init__(self, source: sources.Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> transforms.Element:
        example = self._source[index]
        return {"image": example.image, "label": example.label}


class _HostShard:
    """The examples of one host, in order, from a step on: some rows of each batch."""

    def __init__(
        self, examples: grain.MapDataset, batch_size: int, start_step: int, rows: Sequence[int]
    ):
        self._examples, self._batch_size = examples, batch_size
        self._start_step, self._rows = start_step, rows

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, index: int) -> transforms.Element:
        step, row = divmod(index, len(self._rows))
        return self._examples[(self._start_step + step) * self._batch_size + self._rows[row]]
