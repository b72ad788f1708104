"""The description of a data set: class names, colours, counts, and where its examples come from.

The module of a data set has `build(data, data_dir) -> Dataset`. Folder layouts are those of
MMSegmentation, so a tree made for it is read as it is. Names, colours and counts are those of
MMSegmentation 0.30.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.example import Source
from nonlocal_jax.inputs.listing import files_below, tell_left_out

SPLITS = ("train", "val")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
UNKNOWN = 254  # in a label table: a mask value without a class, which is an error

LabelTable = UInt8[np.ndarray, "256"]
Palette = UInt8[np.ndarray, "k 3"]
ReadMask = Callable[[bytes, str, int], UInt8[np.ndarray, "h w"]]
"""From an encoded mask, its name for errors, and the most pixels that it may have, to its train
labels. It is picklable."""


Report = Callable[[UserError], None]
"""What is done about a problem of a data set, which others may follow."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """An image and its mask on disk.

    Attributes:
      name: path of the image below the image folder of its split, with '/'.
      image_path: the encoded image.
      label_path: the encoded mask.
      label_table: maps values of the mask to train labels; None if the mask holds train labels.
      read_mask: reads the mask, if it is no PNG of numbers.
      label: the encoded mask, if `label_path` holds the masks of several images.
      part: which of the data set's parts the pair belongs to.
    """

    name: str
    image_path: pathlib.Path
    label_path: pathlib.Path
    label_table: LabelTable | None = None
    read_mask: ReadMask | None = None
    label: bytes | None = None
    part: int = 0

    @property
    def label_at(self) -> str:
        """The place of the mask, for errors."""
        return f"{self.label_path}" if self.label is None else f"{self.label_path} ({self.name})"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Description:
    """What is known of every data set, of images or of videos.

    Attributes:
      name: its name in a config, and the name of the folder of prepared files.
      class_names: one for each train label.
      counts: published number of examples in each split; empty if any number is right.
      roots: its usual folders, prepared or raw.
      remedy: a sentence on how to get the data set.
    """

    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    roots: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def num_classes(self) -> int:
        """The number of train labels, without the ignored one."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(Description):
    """The description of one data set of images.

    Attributes:
      palette: RGB of each class, uint8 [classes, 3].
      inner: folders below these in which the raw tree may begin, as the archive unpacks.
      marker: a path below the root that shows that the raw tree is there.
      list_pairs: lists the images of a split with their masks, in order, from the root of the tree
        and the name of the split. None for images/SPLIT and labels/SPLIT, see `tree_pairs`.
      label_table: for the masks of images/SPLIT and labels/SPLIT, see Pair.
      own_values: the values of the data set's own masks for each class, which the server of its
        benchmark expects; -1 for a class without a value. Empty if they are the classes.
      generate: returns the examples of a split, for a data set without such files.
      weights: how often training takes an example of each part, relative to the other parts. Empty
        if it takes all examples equally often.
    """

    palette: Palette = dataclasses.field(repr=False)
    inner: tuple[str, ...] = ()
    marker: str = "images"
    list_pairs: Callable[[pathlib.Path, str], Iterable[Pair]] | None = None
    label_table: LabelTable | None = dataclasses.field(default=None, repr=False)
    own_values: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    generate: Callable[[str], Source] | None = None
    weights: tuple[float, ...] = ()

    def pairs(self, root: pathlib.Path, split: str) -> list[Pair]:
        """The images of a split with their masks, in the order in which the reference reads them.

        Raises:
          UserError: a folder is empty or missing, or an image has no mask.
        """
        if self.list_pairs is not None:
            pairs = list(self.list_pairs(root, split))
        else:
            labels = root / "labels" / split
            pairs = list(tree_pairs(root / "images" / split, labels, self.label_table))
        if not pairs:
            raise UserError(f"{self.name}: {root} has no image of the split {split!r}.")
        return pairs


def raise_(error: UserError) -> None:
    """Raises an error, where a problem is not to be reported in another way."""
    raise error


def tree_pairs(
    images: pathlib.Path,
    labels: pathlib.Path,
    label_table: LabelTable | None = None,
    report: Report = raise_,
) -> Iterator[Pair]:
    """The pairs of two folders. An image and its mask have the same path without suffix.

    Args:
      images: folder of images, with or without subfolders. Pairs are sorted by relative path.
      labels: folder of PNG masks.
      label_table: for all masks, see Pair.
      report: is called for each image without a mask, with two, or with that of another image. If
        it does not raise, the image is left out.

    Raises:
      UserError: a folder is missing, or an image has no mask of its own.
    """
    masks = Masks(labels)
    listed = files_below(images, IMAGE_SUFFIXES)
    tell_left_out(images, listed.left_out)
    stems: dict[str, str] = {}
    for name in listed.files:
        stem = str(pathlib.PurePosixPath(name).with_suffix(""))
        mask = masks.of(images / name, stem, report)
        if mask is None:
            continue
        if stem in stems:
            report(
                UserError(
                    f"{images / stems[stem]} and {images / name} share one mask, {mask}. Take one "
                    "of the images away, or rename it and its mask."
                )
            )
            continue
        stems[stem] = name
        yield Pair(name, images / name, mask, label_table)


class Masks:
    """The PNG masks below a folder."""

    def __init__(self, labels: pathlib.Path):
        """Lists them.

        Args:
          labels: the folder.

        Raises:
          UserError: there is no such folder.
        """
        self._labels = labels
        self._names: dict[str, list[str]] = {}
        for name in files_below(labels, (".png",)).files:
            stem = str(pathlib.PurePosixPath(name).with_suffix(""))
            self._names.setdefault(stem, []).append(name)

    def of(self, image: pathlib.Path, stem: str, report: Report = raise_) -> pathlib.Path | None:
        """The mask of an image; None if it has not exactly one, and this was reported.

        Args:
          image: its path.
          stem: of the image and of its mask: the path below their folders, without a suffix.
          report: is told what is wrong.
        """
        names = self._names.get(stem, [])
        if len(names) == 1:
            return self._labels / names[0]
        if names:
            both = " and ".join(str(self._labels / name) for name in names)
            report(UserError(f"{image} has more than one mask, {both}. Take all but one away."))
        else:
            report(no_mask(image, str(self._labels / f"{stem}.png")))
        return None


def no_mask(image: pathlib.Path, wanted: str) -> UserError:
    """The error for an image without a mask; `wanted` says which file is missing."""
    return UserError(
        f"{image} has no mask: there is no {wanted}. Add the mask or take the image away."
    )


def prepare_remedy(name: str) -> str:
    """A sentence on how to get a data set that `nonlocal_jax.prepare` prepares."""
    return (
        f"Bring it with `nonlocal-jax prepare {name} --source=DOWNLOADS` (without "
        "--source it says where to get it), or say where it is with --config.data_dir=DIR."
    )


def hex_palette(hexadecimal: str) -> Palette:
    """Colours written as "804080 f423e8": red, green and blue of a class, two digits each."""
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 3)


def distinct_colours(count: int) -> Palette:
    """Colours by VOC's rule, which spreads the bits of each label over the channels."""
    labels = np.arange(1, count + 1)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
            colours[:, channel] |= value.astype(np.uint8)
    return colours


def without_zero(table: LabelTable) -> LabelTable:
    """The table with label 0 ignored and k as k - 1; ignored stays ignored."""
    kept = (table != 0) & (table != IGNORED)
    return np.where(kept, table - kept, IGNORED).astype(np.uint8)
