"""What each data set is: class names, colours, ignored label, counts, and where its files lie.

The folder layouts are those of MMSegmentation, so that a tree made for it is read as it is. Names,
colours and counts are facts of the data sets (as MMSegmentation 0.30 states them); `data/` prepares
the same trees as ArrayRecord from these facts.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets import class_names, scenes

IGNORED = 255  # the label of pixels that count for nothing, in every data set
SPLITS = ("train", "val")
FOLDER = "data/folder"  # where a person's own data lies when no place is named
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_UNKNOWN = 254  # a raw value that stands for no class: refused where it is met


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """An image and its mask on disk.

    Attributes:
      name: the image's path under its split's image folder, '/'-separated.
      image_path: the encoded image.
      label_path: the encoded mask.
      label_table: maps the mask's values to train labels; None where it holds train labels.
    """

    name: str
    image_path: pathlib.Path
    label_path: pathlib.Path
    label_table: UInt8[np.ndarray, "256"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The facts of one data set.

    Attributes:
      name: its name in a config and under data/.
      class_names: one per train label.
      palette: RGB of each class, uint8 [classes, 3].
      counts: images per split as published; empty where any number will do.
      roots: where it is looked for by default, prepared or raw.
      inner: where the tree may begin below the folder a person names (as the archive unpacks).
      marker: a path below the root that tells that the raw tree is there.
      label_table: maps a mask's values to train labels; None where masks hold train labels.
    """

    name: str
    class_names: tuple[str, ...]
    palette: UInt8[np.ndarray, "k 3"] = dataclasses.field(repr=False)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    roots: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    marker: str = "images"
    label_table: UInt8[np.ndarray, "256"] | None = dataclasses.field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        """The number of train labels, the ignored one left out."""
        return len(self.class_names)


def get(name: str) -> Dataset:
    """The data set called `name`: cityscapes, ade20k, voc12aug, camvid, or the generated scenes.

    Raises:
      UserError: there is none of that name.
    """
    benchmarks = _benchmarks()
    if name not in benchmarks:
        known = ", ".join([*benchmarks, "folder"])
        raise UserError(f"There is no data set {name!r}. config.data.name is one of {known}.")
    return benchmarks[name]


def from_folder(
    root: str | os.PathLike[str],
    *,
    classes_file: str = "",
    label_map: Mapping[int, int] | None = None,
    reduce_zero_label: bool = False,
) -> Dataset:
    """A person's own data: images/{train,val}, labels/{train,val} and a class list.

    Args:
      root: the folder; empty for data/folder.
      classes_file: names in label order, one a line, or JSON `{"classes": [...], "palette":
        [[r, g, b], ...]}`; empty for classes.json or classes.txt in `root`.
      label_map: mask value to train label, where masks hold other numbers; others stay.
      reduce_zero_label: then 0 becomes ignored and k becomes k - 1, as for ADE20K.

    Raises:
      UserError: there is no class list, or it is not one.
    """
    names, palette = read_classes(pathlib.Path(root or FOLDER), classes_file)
    table = None
    if label_map or reduce_zero_label:
        table = _folder_table(label_map or {}, reduce_zero_label)
    return Dataset("folder", names, palette, roots=(FOLDER,), label_table=table)


def list_pairs(dataset: Dataset, root: pathlib.Path, split: str) -> list[Pair]:
    """Every image of a split with its mask, in the order the reference reads them.

    Folders are sorted by relative path; VOC follows its split files, the Aug part sorted.

    Raises:
      UserError: the folder is empty or missing, or an image has no mask.
    """
    if dataset.name == "cityscapes":
        pairs = list(_cityscapes_pairs(dataset, root, split))
    elif dataset.name == "voc12aug":
        pairs = list(_voc_pairs(root, split))
    else:
        images, labels = _folders(dataset, root, split)
        pairs = list(_folder_pairs(images, labels, dataset.label_table))
    if not pairs:
        raise UserError(f"{dataset.name}: {root} has no image of the split {split!r}.")
    return pairs


def read_classes(
    root: pathlib.Path, classes_file: str = ""
) -> tuple[tuple[str, ...], UInt8[np.ndarray, "k 3"]]:
    """The class names and colours of a class list; see `from_folder` for its two forms.

    Raises:
      UserError: there is no such file, or it is not a class list.
    """
    path = _classes_path(root, classes_file)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.loads(text)
            names = tuple(str(name) for name in content["classes"])
            palette = content.get("palette")
        else:
            names, palette = tuple(line.strip() for line in text.splitlines() if line.strip()), None
        colours = np.array(palette, np.uint8) if palette else distinct_colours(len(names))
    except (OSError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{path} is not a class list: {error!r}. It must be a text file of one class name a "
            'line, or JSON {"classes": ["road", ...], "palette": [[128, 64, 128], ...]}.'
        ) from error
    if not 2 <= len(names) < _UNKNOWN or colours.shape != (len(names), 3):
        raise UserError(
            f"{path} lists {len(names)} classes and a palette of shape {colours.shape}; it needs "
            f"2 to {_UNKNOWN - 1} classes and one [r, g, b] for each."
        )
    return names, colours


def distinct_colours(count: int) -> UInt8[np.ndarray, "k 3"]:
    """Colours for classes without any, by VOC's rule: each label's bits are spread out."""
    labels = np.arange(1, count + 1)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def _classes_path(root: pathlib.Path, classes_file: str) -> pathlib.Path:
    if classes_file:
        given = pathlib.Path(classes_file)
        return given if given.exists() else root / given
    for name in ("classes.json", "classes.txt"):
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"{root} has no class list. Write classes.txt there, one class name a line in label "
        "order, or name a file with --config.data.classes_file=FILE."
    )


def _cityscapes_pairs(dataset: Dataset, root: pathlib.Path, split: str) -> Iterator[Pair]:
    """Prefers labelTrainIds, which MMSegmentation users have made, to the published labelIds."""
    suffix, labels = "_leftImg8bit.png", root / "gtFine" / split
    images = root / "leftImg8bit" / split
    for name in _sorted_files(images, (suffix,)):
        stem = labels / name.removesuffix(suffix)
        train_ids = stem.with_name(stem.name + "_gtFine_labelTrainIds.png")
        ids = stem.with_name(stem.name + "_gtFine_labelIds.png")
        if train_ids.is_file():
            yield Pair(name, images / name, train_ids, None)
        elif ids.is_file():
            yield Pair(name, images / name, ids, dataset.label_table)
        else:
            raise _no_mask(images / name, f"{train_ids.name} or {ids.name} in {ids.parent}")


def _voc_pairs(root: pathlib.Path, split: str) -> Iterator[Pair]:
    """Training is train.txt with VOC's own masks, then aug.txt, sorted, with those from SBD."""
    parts = {
        "train": [("train", "SegmentationClass"), ("aug", "SegmentationClassAug")],
        "val": [("val", "SegmentationClass")],
    }
    for file, folder in parts[split]:
        listing = root / "ImageSets" / "Segmentation" / f"{file}.txt"
        if not listing.is_file():
            raise UserError(
                f"voc12aug: {listing} is missing. `python -m data.prepare voc12aug` makes the "
                "whole set from VOC 2012 and SBD."
            )
        stems = listing.read_text().split()
        # The reference's converter writes aug.txt in the order of a Python set: of no meaning.
        for stem in sorted(stems) if file == "aug" else stems:
            image = root / "JPEGImages" / f"{stem}.jpg"
            label = root / folder / f"{stem}.png"
            if not image.is_file():
                raise UserError(f"{image}, listed in {listing}, is missing.")
            if not label.is_file():
                raise _no_mask(image, str(label))
            yield Pair(image.name, image, label, None)


def _folder_pairs(
    images: pathlib.Path, labels: pathlib.Path, table: UInt8[np.ndarray, "256"] | None
) -> Iterator[Pair]:
    masks = set(_sorted_files(labels, (".png",)))
    for name in _sorted_files(images, IMAGE_SUFFIXES):
        mask = str(pathlib.PurePosixPath(name).with_suffix(".png"))
        if mask not in masks:
            raise _no_mask(images / name, str(labels / mask))
        yield Pair(name, images / name, labels / mask, table)


def _folders(dataset: Dataset, root: pathlib.Path, split: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The image and the mask folder of a split."""
    if dataset.name == "ade20k":
        split = {"train": "training", "val": "validation"}[split]
        return root / "images" / split, root / "annotations" / split
    return root / "images" / split, root / "labels" / split


def _sorted_files(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[str]:
    """Relative paths below `folder`, sorted as plain strings (upper case before lower)."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    lowered = tuple(suffix.lower() for suffix in suffixes)
    found = [
        (pathlib.Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(lowered) and not name.startswith(".")
    ]
    return sorted(found)


def _no_mask(image: pathlib.Path, wanted: str) -> UserError:
    return UserError(
        f"{image} has no mask: there is no {wanted}. Add the mask or take the image away."
    )


def _folder_table(
    label_map: Mapping[int, int], reduce_zero_label: bool
) -> UInt8[np.ndarray, "256"]:
    table = np.arange(256, dtype=np.uint8)
    for value, label in label_map.items():
        if not (0 <= value <= IGNORED and 0 <= label <= IGNORED):
            raise UserError(
                f"config.data.label_map has {value}: {label}; both must be within 0 to 255."
            )
        table[value] = label
    return _without_zero(table) if reduce_zero_label else table


def _without_zero(table: UInt8[np.ndarray, "256"]) -> UInt8[np.ndarray, "256"]:
    """Label 0 becomes ignored, ignored stays, k becomes k - 1."""
    kept = (table != 0) & (table != IGNORED)
    return np.where(kept, table - kept, IGNORED).astype(np.uint8)


def _cityscapes_table() -> UInt8[np.ndarray, "256"]:
    """Published id to train id; ids that are not evaluated and license plate (-1) are ignored."""
    evaluated = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
    table = np.full(256, _UNKNOWN, np.uint8)
    table[:34] = IGNORED
    table[255] = IGNORED  # -1 in a uint8 file
    for train_id, published_id in enumerate(evaluated):
        table[published_id] = train_id
    return table


def _colours(hexadecimal: str) -> UInt8[np.ndarray, "k 3"]:
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 3)


@functools.cache
def _benchmarks() -> dict[str, Dataset]:
    cityscapes = Dataset(
        name="cityscapes",
        class_names=(
            "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
            "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
            "bus", "train", "motorcycle", "bicycle",
        ),
        palette=_colours(
            "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c "
            "ff0000 00008e 000046 003c64 005064 0000e6 770b20"
        ),
        counts={"train": 2975, "val": 500},
        roots=("data/cityscapes",),
        marker="leftImg8bit",
        label_table=_cityscapes_table(),
    )  # fmt: skip
    ade20k = Dataset(
        name="ade20k",
        class_names=class_names.ADE20K_NAMES,
        palette=np.frombuffer(class_names.ADE20K_PALETTE, np.uint8).reshape(-1, 3),
        counts={"train": 20210, "val": 2000},
        roots=("data/ade20k", "data/ade/ADEChallengeData2016"),
        inner=("ADEChallengeData2016",),
        marker="annotations",
        label_table=_without_zero(np.arange(256, dtype=np.uint8)),
    )
    voc_names = (
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
        "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant",
        "sheep", "sofa", "train", "tvmonitor",
    )  # fmt: skip
    voc12aug = Dataset(
        name="voc12aug",
        class_names=voc_names,
        palette=np.concatenate([np.zeros((1, 3), np.uint8), distinct_colours(20)]),
        counts={"train": 10582, "val": 1449},
        roots=("data/voc12aug", "data/VOCdevkit/VOC2012"),
        inner=("VOCdevkit/VOC2012", "VOC2012"),
        marker="JPEGImages",
    )
    camvid = Dataset(
        name="camvid",
        class_names=(
            "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car",
            "pedestrian", "bicyclist",
        ),
        palette=_colours(
            "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"
        ),
        counts={"train": 367, "val": 101},
        roots=("data/camvid",),
    )  # fmt: skip
    generated = Dataset("scenes", scenes.CLASS_NAMES, scenes.PALETTE, scenes.COUNTS)
    return {d.name: d for d in (cityscapes, ade20k, voc12aug, camvid, generated)}
