"""Sources of examples: prepared ArrayRecord files or a raw folder tree, with identical examples.

A data set is searched in `config.data_dir`. If that is empty, it is searched in its usual folders:
data/NAME, and for raw trees MMSegmentation's folders.

- prepared: ArrayRecord as TFDS writes it, in `DIR`, `DIR/VERSION` or `DIR/NAME/VERSION`. Records
  hold `image` (the file's own bytes), `label` (PNG of train labels, 255 ignored) and `name`, in
  the raw source's order.
- raw: the published tree, see `Dataset.list_pairs`.
"""

import abc
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from absl import logging
from jaxtyping import UInt8

from nonlocal_jax.config.schema import IGNORED, MOST_PIXELS
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import decode
from nonlocal_jax.inputs.datasets.dataset import Dataset, Description, Pair, ReadMask
from nonlocal_jax.inputs.example import Example, Source
from nonlocal_jax.inputs.records import Records

HEADER_BYTES = 1 << 18  # enough of a file for the size of its image


class Encoded(NamedTuple):
    """An example as it is stored.

    Attributes:
      image: the encoded image.
      label: the encoded mask.
      name: of the image, unique in its split.
      image_at: place of the image, for errors.
      label_at: place of the mask.
      label_table: maps values of the mask to train labels; None if it holds train labels.
      read_mask: see Pair.
    """

    image: bytes
    label: bytes
    name: str
    image_at: str
    label_at: str
    label_table: UInt8[np.ndarray, "256"] | None
    read_mask: ReadMask | None = None


class EncodedSource(abc.ABC):
    """The base class of sources of encoded images: decodes and checks.

    Args:
      num_classes: labels from this number on, other than 255, are an error.
      most_pixels: an image or mask with more is an error.

    Raises:
      UserError: from `__getitem__`, for an image or mask that is damaged, of another size than its
        mate, or with labels out of range.
    """

    def __init__(self, num_classes: int, most_pixels: int = MOST_PIXELS):
        self._num_classes, self._most_pixels = num_classes, most_pixels

    def __getitem__(self, index: int) -> Example:
        encoded = self.encoded(index)
        image = self.decode_image(encoded)
        return Example(image, self.decode_label(encoded, image), encoded.name)

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abc.abstractmethod
    def encoded(self, index: int) -> Encoded:
        """The bytes of an example."""

    def name(self, index: int) -> str:
        """The name of an example."""
        return self.encoded(index).name

    @abc.abstractmethod
    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, from its header if that is enough."""

    def decode_image(self, encoded: Encoded) -> UInt8[np.ndarray, "h w 3"]:
        """The image of an example."""
        return decode.decode_image(encoded.image, encoded.image_at, self._most_pixels)

    def decode_label(
        self, encoded: Encoded, image: UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "h w"]:
        """The train labels of an example, checked against its image."""
        read = encoded.read_mask or decode.decode_label
        stored = read(encoded.label, encoded.label_at, self._most_pixels)
        label = stored
        if encoded.label_table is not None:
            label = cv2.LUT(stored, encoded.label_table)
        check_example(image, label, self._num_classes, encoded.label_at, stored)
        return label


class FolderSource(EncodedSource):
    """Examples of a raw tree.

    Args:
      pairs: what `Dataset.pairs` gives.
      num_classes: see EncodedSource, as for `most_pixels`.
    """

    def __init__(self, pairs: Sequence[Pair], num_classes: int, most_pixels: int = MOST_PIXELS):
        super().__init__(num_classes, most_pixels)
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def encoded(self, index: int) -> Encoded:
        """See EncodedSource."""
        pair = self._pairs[index]
        return Encoded(
            image=_read(pair.image_path),
            label=_read(pair.label_path) if pair.label is None else pair.label,
            name=pair.name,
            image_at=str(pair.image_path),
            label_at=pair.label_at,
            label_table=pair.label_table,
            read_mask=pair.read_mask,
        )

    def name(self, index: int) -> str:
        """See EncodedSource."""
        return self._pairs[index].name

    def part_sizes(self, count: int) -> list[int]:
        """The number of examples in each of `count` parts, which follow each other."""
        return [sum(pair.part == part for pair in self._pairs) for part in range(count)]

    def image_size(self, index: int) -> tuple[int, int]:
        """See EncodedSource."""
        path = self._pairs[index].image_path
        try:
            return decode.image_size(_read(path, HEADER_BYTES), str(path), self._most_pixels)
        except UserError:  # the header is longer
            return decode.image_size(_read(path), str(path), self._most_pixels)


class RecordSource(EncodedSource):
    """Examples of a prepared data set.

    Args:
      folder: holds TFDS's dataset_info.json and the records.
      split: "train" or "val".
      num_classes: see EncodedSource, as for `most_pixels`.

    Raises:
      UserError: the folder is none, or has no such split; from `__getitem__` also for a damaged
        record.
    """

    def __init__(
        self, folder: pathlib.Path, split: str, num_classes: int, most_pixels: int = MOST_PIXELS
    ):
        super().__init__(num_classes, most_pixels)
        self._records = Records(folder, split, encoded=("image", "label"))

    def __len__(self) -> int:
        return len(self._records)

    def encoded(self, index: int) -> Encoded:
        """See EncodedSource."""
        record = self._records[index]
        name, folder = record["name"], self._records.folder
        return Encoded(
            image=record["image"],
            label=record["label"],
            name=name,
            image_at=f"{name} in {folder}",
            label_at=f"the mask of {name} in {folder}",
            label_table=None,
        )

    def image_size(self, index: int) -> tuple[int, int]:
        """See EncodedSource."""
        encoded = self.encoded(index)
        return decode.image_size(encoded.image, encoded.image_at, self._most_pixels)


class SkipLog:
    """Logs each bad example once, whichever thread or worker process finds it.

    Worker processes hold copies of this, and inform each other by files in a temporary folder.
    """

    def __init__(self) -> None:
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="nonlocal_jax_skipped_"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def indices(self) -> list[int]:
        """The indices found bad so far, by any thread or worker."""
        return sorted(int(path.name) for path in self._folder.iterdir())

    def add(self, index: int, error: UserError) -> None:
        """Logs that the example at an index is bad, unless that was logged before."""
        try:
            (self._folder / str(index)).touch(exist_ok=False)
        except OSError:
            return
        logging.warning("Skipped a bad example, number %d: %s", len(self.indices()), error)


class SkippingSource:
    """A source that replaces a bad example by the next good one, and logs each bad one once.

    The example at an index depends on the data only, so runs stay reproducible.

    Args:
      source: the examples, some of which raise UserError.

    Raises:
      UserError: from `__getitem__`, when every example is bad.
    """

    def __init__(self, source: Source):
        self._source = source
        self._bad: set[int] = set()
        self._log = SkipLog()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if candidate not in self._bad:
                try:
                    return self._source[candidate]
                except UserError as error:
                    self._bad.add(candidate)
                    self._log.add(candidate, error)
        raise all_bad(len(self))

    def name(self, index: int) -> str:
        """The name of the example at this index, good or bad."""
        return self._source.name(index)

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of the example at this index, good or bad."""
        return self._source.image_size(index)

    def skipped(self) -> list[int]:
        """The indices found bad so far, by any thread or worker."""
        return self._log.indices()


def all_bad(count: int) -> UserError:
    """The error when there is no good example."""
    return UserError(f"All {count} examples are bad; the log says what is wrong with each.")


def check_example(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "label_h label_w"],
    num_classes: int,
    where: str,
    stored: UInt8[np.ndarray, "label_h label_w"] | None = None,
) -> None:
    """Raises a UserError unless a label fits its image and holds nothing but classes and 255.

    Args:
      image: the image.
      label: its train labels.
      num_classes: train labels are below this number.
      where: what to call the label in the error.
      stored: the values in the file, from which the train labels were made; else the labels.
    """
    if label.shape != image.shape[:2]:
        raise UserError(
            f"{where} is {label.shape[1]}x{label.shape[0]}, its image "
            f"{image.shape[1]}x{image.shape[0]}. A mask has the size of its image."
        )
    # 255 wraps around to 0, so that one maximum finds a label out of range.
    if label.size and (label + np.uint8(1)).max() > num_classes:
        bad = (label >= num_classes) & (label != IGNORED)
        value = (label if stored is None else stored)[bad][0]
        becomes = "" if value == label[bad][0] else ", which no class is stored as"
        raise UserError(
            f"{where} holds label {value}{becomes}, and there are {num_classes} classes: 0 to "
            f"{num_classes - 1}, and 255 for ignored. Correct the mask; for a folder of your own, "
            "the class list, config.data.label_map or config.data.reduce_zero_label may be wrong, "
            "too."
        )


def open_source(
    dataset: Dataset,
    split: str,
    *,
    data_dir: str = "",
    kind: str = "auto",
    most_pixels: int = MOST_PIXELS,
) -> Source:
    """The examples of a data set's split, prepared or raw.

    Args:
      dataset: which one.
      split: "train" or "val".
      data_dir: where it is; empty for its default folders.
      kind: "array_record", "folder", or "auto" for prepared if it is there, else raw.
      most_pixels: an image or mask with more is an error.

    Raises:
      UserError: it is not there, with the command that brings it.
    """
    if dataset.generate is not None:
        check_unread(dataset, data_dir, kind)
        return dataset.generate(split)
    prepared = find_prepared(dataset, data_dir) if kind != "folder" else None
    if prepared is not None:
        return RecordSource(prepared, split, dataset.num_classes, most_pixels)
    root = find_tree(dataset, data_dir) if kind != "array_record" else None
    if root is not None:
        return FolderSource(dataset.pairs(root, split), dataset.num_classes, most_pixels)
    raise UserError(_missing(dataset, data_dir, kind))


def check_unread(dataset: Description, data_dir: str, kind: str) -> None:
    """Raises a UserError for settings that a data set without files does not read."""
    for key, value, usual in (("data_dir", data_dir, ""), ("data.source", kind, "auto")):
        if value != usual:
            raise UserError(
                f"config.{key} is {value!r}, and the data set {dataset.name} has no files. Leave "
                "it out."
            )


def find_prepared(dataset: Description, data_dir: str = "") -> pathlib.Path | None:
    """The newest prepared version below `data_dir` or the default folders, None if there is none.

    TFDS writes elsewhere and renames at the end, so a folder with dataset_info.json is whole.
    """
    for root in roots(dataset, data_dir):
        for pattern in ("", "*", f"{dataset.name}/*"):
            found = root.glob(f"{pattern}/dataset_info.json".lstrip("/"))
            versions = [path.parent for path in found if path.parent.parent.name == dataset.name]
            if versions:
                return max(versions, key=_version)
    return None


def find_tree(dataset: Dataset, data_dir: str = "") -> pathlib.Path | None:
    """The root of the raw tree below `data_dir` or the default folders, None if there is none."""
    for root in roots(dataset, data_dir):
        for inner in ("", *dataset.inner):
            if (root / inner / dataset.marker).is_dir():
                return root / inner
    return None


def roots(dataset: Description, data_dir: str) -> list[pathlib.Path]:
    """The folders in which a data set is searched."""
    return [pathlib.Path(root) for root in ([data_dir] if data_dir else dataset.roots)]


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())


def _missing(dataset: Dataset, data_dir: str, kind: str) -> str:
    looked = " or ".join(map(str, roots(dataset, data_dir)))
    what = {"auto": "", "array_record": "prepared ", "folder": "raw tree of "}[kind]
    remedy = dataset.remedy or "Say where it is with --config.data_dir=DIR."
    return f"There is no {what}{dataset.name} in {looked}. {remedy}"


def _read(path: pathlib.Path, limit: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}). Check the file, or leave it out with "
            "--config.data.on_bad_example=skip."
        ) from error
