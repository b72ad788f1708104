"""The base class of the builders: verifies examples in parallel, writes them in a fixed order.

A builder lists its pairs of image and mask, and converts a mask file to train ids. Records hold the
bytes of the image file, the label as PNG of train ids (255 is ignored), and the name.
"""

import abc
import collections
import concurrent.futures
import functools
import inspect
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from jaxtyping import UInt8
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import cores, datasets, decode, opencv
from nonlocal_jax.inputs.datasets.dataset import SPLITS, Pair
from nonlocal_jax.inputs.preparation import verification
from nonlocal_jax.inputs.preparation.parts import Part

SHARD_BYTES = 128 << 20  # of images; TFDS holds one shard's examples in memory while it writes

T = TypeVar("T")
R = TypeVar("R")


class SegmentationBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
    """A TFDS builder whose `manual_dir` is the raw tree or the folder of downloaded archives.

    Shards are written one after the other as they are read. TFDS's usual builder sorts a split
    first, which needs TensorFlow, and the whole split in memory, once it passes 1 GB.

    A builder's class states, besides `list_pairs`:

    - PARTS: the folders that the data set consists of, and their archives;
    - USUAL_SOURCE: where MMSegmentation keeps them;
    - MANUAL_DOWNLOAD_INSTRUCTIONS: where to get them, for people.

    Args:
      allow_incomplete: accept another number of examples than published.
      file_format: of the records; ArrayRecord unless said otherwise.
      **kwargs: of tfds.core.DatasetBuilder; `data_dir` is where the data set is written to.
    """

    VERSION = tfds.core.Version("1.0.0")
    PARTS: ClassVar[tuple[Part, ...]] = ()
    USUAL_SOURCE: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # Where README.md is; TFDS would look below the folder of `nonlocal_jax`.
        cls.pkg_dir_path = epath.Path(inspect.getfile(cls)).parent

    def __init__(
        self, *, allow_incomplete: bool = False, file_format: str | None = None, **kwargs: Any
    ):
        super().__init__(file_format=file_format or "array_record", **kwargs)
        self.allow_incomplete = allow_incomplete
        self.dataset = datasets.describe(schema.Data(name=self.name))
        self.findings = {split: verification.Findings() for split in SPLITS}

    @abc.abstractmethod
    def list_pairs(self, source: pathlib.Path, split: str) -> list[Pair]:
        """The examples of a split ("train", "val") in order; unpacks archives where needed.

        Raises:
          UserError: something is missing; it says what.
        """

    def read_label(self, pair: Pair) -> UInt8[np.ndarray, "h w"]:
        """The train ids of an example.

        Raises:
          UserError: the mask file cannot be read.
        """
        label = decode.decode_label(pair.label_path.read_bytes(), str(pair.label_path))
        return label if pair.label_table is None else pair.label_table[label]

    def report(self) -> str:
        """What was found in the examples, as a table."""
        return verification.table(
            self.findings, dict(self.dataset.counts), self.dataset.num_classes
        )

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "name": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _example_writer(self) -> writer.ExampleWriter:
        return _DeterministicWriter(self.info.file_format)

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        with tqdm.tqdm(desc=f"preparing {self.name}", unit="image") as self._progress:
            super()._download_and_prepare(dl_manager, download_config)
        report = self.report()
        (pathlib.Path(self.data_dir) / "report.txt").write_text(f"{report}\n")
        sys.stderr.write(f"{report}\n")

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        source = pathlib.Path(dl_manager.manual_dir)
        splits = {split: self.list_pairs(source, split) for split in SPLITS}
        self._check_counts(splits)
        sizes = {pair: pair.image_path.stat().st_size for s in splits.values() for pair in s}
        self._check_space(sum(sizes.values()))
        self._progress.reset(total=len(sizes))
        return {
            split: [
                functools.partial(self._examples, shard, split) for shard in _shards(pairs, sizes)
            ]
            for split, pairs in splits.items()
        }

    def _check_counts(self, splits: dict[str, list[Pair]]) -> None:
        for split, pairs in splits.items():
            published = self.dataset.counts[split]
            if len(pairs) != published and not self.allow_incomplete:
                raise UserError(
                    f"{self.name} has {len(pairs)} images in {split}; published are {published}. "
                    "The download or its unpacking is not whole. (--allow_incomplete prepares "
                    "what is there.)"
                )

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.data_path.parent).free
        if free < needed:
            raise UserError(
                f"{self.data_path.parent} has {free / 1e9:.1f} GB free; the images alone are "
                f"{needed / 1e9:.1f} GB. Make room or name another --output."
            )

    def _examples(self, pairs: list[Pair], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The verified examples of one shard, in order."""
        for pair, image, label, encoded_label in _parallel(self._verified, pairs):
            self.findings[split].add(image, label, encoded_label)
            self._progress.update()
            yield pair.name, {"image": image, "label": encoded_label, "name": pair.name}

    def _verified(self, pair: Pair) -> tuple[Pair, bytes, UInt8[np.ndarray, "h w"], bytes]:
        image, label = pair.image_path.read_bytes(), self.read_label(pair)
        verification.check(image, label, self.dataset.num_classes, str(pair.image_path))
        return pair, image, label, verification.encode_label(label)


class _DeterministicWriter(writer.ExampleWriter):  # type: ignore[misc]
    """Writes the same bytes for the same examples, so that prepared files can be compared.

    TFDS leaves the order of a record's three features to protobuf, where it changes by process.
    """

    def write(self, path: epath.Path, examples: Iterable[tuple[str, bytes]]) -> None:
        """Writes serialised examples to one shard."""
        super().write(path, ((key, _in_key_order(record)) for key, record in examples))


def _in_key_order(record: bytes) -> bytes:
    example = tf_example_pb2.Example.FromString(record)
    ordered: bytes = example.SerializeToString(deterministic=True)
    return ordered


def _shards(pairs: list[Pair], sizes: dict[Pair, int]) -> Iterator[list[Pair]]:
    """Cuts a split into runs of about SHARD_BYTES."""
    shard: list[Pair] = []
    total = 0
    for pair in pairs:
        shard.append(pair)
        total += sizes[pair]
        if total >= SHARD_BYTES:
            yield shard
            shard, total = [], 0
    if shard:
        yield shard


def _parallel(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Maps in order with a thread per core, never far ahead of what was taken."""
    opencv.use_one_thread()
    workers = cores.usable()
    waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
