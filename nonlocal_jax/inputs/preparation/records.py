"""The base class of the builders: verifies examples in parallel, writes them in a fixed order."""

import abc
import collections
import concurrent.futures
import functools
import inspect
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import tensorflow_datasets as tfds
import tqdm
from etils import epath
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import cores, opencv
from nonlocal_jax.inputs.datasets.dataset import SPLITS, Description
from nonlocal_jax.inputs.preparation.parts import Part

SHARD_BYTES = 128 << 20  # of files; TFDS holds one shard's examples in memory while it writes

T = TypeVar("T")
R = TypeVar("R")

Record = tuple[str, dict[str, Any]]
"""The name of an example, and its features."""


class RecordsBuilder(tfds.core.ShardBasedBuilder, Generic[T], skip_registration=True):  # type: ignore[call-arg, misc]
    """A TFDS builder whose `manual_dir` is the raw tree or the folder of downloaded archives.

    Shards are written one after the other as they are read. TFDS's usual builder sorts a split
    first, which needs TensorFlow, and the whole split in memory, once it passes 1 GB.

    A builder's class states, besides its methods:

    - PARTS: the folders that the data set consists of, and their archives;
    - USUAL_SOURCE: where they usually are;
    - MANUAL_DOWNLOAD_INSTRUCTIONS: where to get them, for people.

    Args:
      allow_incomplete: accept another number of examples than published.
      file_format: of the records; ArrayRecord unless said otherwise.
      **kwargs: of tfds.core.DatasetBuilder; `data_dir` is where the data set is written to.
    """

    VERSION = tfds.core.Version("1.0.0")
    PARTS: ClassVar[tuple[Part, ...]] = ()
    USUAL_SOURCE: ClassVar[str] = ""
    UNIT: ClassVar[str] = "image"

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        # Where README.md is; TFDS would look below the folder of `nonlocal_jax`.
        cls.pkg_dir_path = epath.Path(inspect.getfile(cls)).parent

    def __init__(
        self, *, allow_incomplete: bool = False, file_format: str | None = None, **kwargs: Any
    ):
        self.allow_incomplete = allow_incomplete
        self.dataset = self.describe()
        super().__init__(file_format=file_format or "array_record", **kwargs)

    @abc.abstractmethod
    def describe(self) -> Description:
        """The data set."""

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """The TFDS features of a record."""

    @abc.abstractmethod
    def list_examples(self, source: pathlib.Path, split: str) -> list[T]:
        """The examples of a split ("train", "val") in order; unpacks archives where needed.

        Raises:
          UserError: something is missing; it says what.
        """

    @abc.abstractmethod
    def file_of(self, example: T) -> pathlib.Path:
        """The file that makes up most of an example's record."""

    @abc.abstractmethod
    def records(self, examples: list[T], split: str) -> Iterator[Record]:
        """The verified records of some examples of a split, in order.

        Raises:
          UserError: an example is bad.
        """

    @abc.abstractmethod
    def report(self) -> str:
        """What was found in the examples, as a table."""

    def is_there(self, source: pathlib.Path) -> bool:
        """Whether `source` holds something of the data set."""
        return any(part.is_there(source) for part in self.PARTS)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self.features())
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _example_writer(self) -> writer.ExampleWriter:
        return _DeterministicWriter(self.info.file_format)

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        with tqdm.tqdm(desc=f"preparing {self.name}", unit=self.UNIT) as self._progress:
            super()._download_and_prepare(dl_manager, download_config)
        report = self.report()
        (pathlib.Path(self.data_dir) / "report.txt").write_text(f"{report}\n")
        sys.stderr.write(f"{report}\n")

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[Record]]]]:
        source = pathlib.Path(dl_manager.manual_dir)
        splits = {split: self.list_examples(source, split) for split in SPLITS}
        self._check_counts(splits)
        shards = {split: list(self._shards(examples)) for split, examples in splits.items()}
        self._check_space(sum(size for of_split in shards.values() for _, size in of_split))
        self._progress.reset(total=sum(map(len, splits.values())))
        return {
            split: [functools.partial(self._counted, shard, split) for shard, _ in of_split]
            for split, of_split in shards.items()
        }

    def _counted(self, examples: list[T], split: str) -> Iterator[Record]:
        for record in self.records(examples, split):
            self._progress.update()
            yield record

    def _shards(self, examples: list[T]) -> Iterator[tuple[list[T], int]]:
        """Cuts a split into runs of about SHARD_BYTES, each with its size."""
        shard: list[T] = []
        total = 0
        for example in examples:
            shard.append(example)
            total += self.file_of(example).stat().st_size
            if total >= SHARD_BYTES:
                yield shard, total
                shard, total = [], 0
        if shard:
            yield shard, total

    def _check_counts(self, splits: dict[str, list[T]]) -> None:
        for split, examples in splits.items():
            published = self.dataset.counts[split]
            if len(examples) != published and not self.allow_incomplete:
                raise UserError(
                    f"{self.name} has {len(examples)} {self.UNIT}s in {split}; published are "
                    f"{published}. The download or its unpacking is not whole. (--allow_incomplete "
                    "prepares what is there.)"
                )

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.data_path.parent).free
        if free < needed:
            raise UserError(
                f"{self.data_path.parent} has {free / 1e9:.1f} GB free; the {self.UNIT}s alone are "
                f"{needed / 1e9:.1f} GB. Make room or name another --output."
            )


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


def parallel(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
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
