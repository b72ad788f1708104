"""Checks a folder of one's own before training, and suggests a config for it.

All images and masks are decoded, as training does. Problems stop training, or end it later. Notes
are worth a look.
"""

import collections
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tqdm
from jaxtyping import Int64

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import frequencies, sources
from nonlocal_jax.inputs.class_list import ClassList, read_class_list
from nonlocal_jax.inputs.datasets import describe, folder
from nonlocal_jax.inputs.datasets.dataset import IMAGE_SUFFIXES, SPLITS, Dataset
from nonlocal_jax.inputs.listing import files_below
from nonlocal_jax.inputs.preparation import suggestion
from nonlocal_jax.inputs.preparation.records import parallel

SHOWN = 20  # problems of one kind
NAMED = 3  # files in a note


class Read(NamedTuple):
    """A pair that was decoded.

    Attributes:
      name: of the image.
      problem: why it is of no use; empty if it is sound.
      size: height and width of the image; zeros if it is bad.
      pixels: how many have each label.
      digest: of the image's file.
    """

    name: str
    problem: str
    size: tuple[int, int]
    pixels: Int64[np.ndarray, "256"]
    digest: bytes


@dataclass
class Report:
    """What was found.

    Attributes:
      problems: what has to be changed.
      notes: what is worth a look.
      tables: sizes and classes of the images.
      config: a config for the folder.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    config: str = ""

    def text(self) -> str:
        """All of it, for people."""
        parts = list(self.tables)
        for title, found in (("Notes", self.notes), ("Problems", self.problems)):
            if found:
                parts.append("\n".join([f"{title}:", *(f"- {line}" for line in found)]))
        if self.config:
            parts.append(
                f"A config to begin with, which you save as my/config.py:\n\n{self.config}"
            )
        return "\n\n".join(parts)


def check(root: pathlib.Path, lists: Mapping[str, str]) -> Report:
    """Reads everything in a folder.

    Args:
      root: holds images, labels and the list of classes.
      lists: a file with names for each split; empty for all of images/SPLIT.

    Raises:
      UserError: there is no such folder, or its class list cannot be read.
    """
    data = schema.Data(name="folder", train_list=lists["train"], val_list=lists["val"])
    dataset, listed = describe(data, str(root)), read_class_list(root)
    report = Report()
    read = {split: _read(root, split, dataset, listed, lists, report) for split in SPLITS}
    sound = {split: [one for one in found if not one.problem] for split, found in read.items()}
    report.tables.append(_sizes(sound))
    if sound["train"]:
        report.tables.append(_frequencies(dataset, sound["train"]))
        sizes = [one.size for one in sound["train"]]
        report.config = suggestion.config(root, dataset, sizes, lists)
    report.notes += [*_class_notes(dataset, sound), *_shared_images(read)]
    return report


def _read(
    root: pathlib.Path,
    split: str,
    dataset: Dataset,
    listed: ClassList,
    lists: Mapping[str, str],
    report: Report,
) -> list[Read]:
    """Decodes the pairs of a split. Adds their problems to the report."""
    missing: list[str] = []
    try:
        pairs = list(
            folder.pairs_of(
                root,
                split,
                listed=listed,
                table=dataset.label_table,
                lists=lists,
                report=lambda error: missing.append(str(error)),
            )
        )
        if not lists[split] and listed.masks != "polygons":
            report.notes += _masks_without_image(root, split)
    except UserError as error:
        report.problems.append(f"{error}")
        return []
    report.problems += _shortened(missing, split)
    if not pairs and not missing:
        report.problems.append(f"{root} has no image of the split {split!r}.")
    source = sources.FolderSource(pairs, dataset.num_classes)
    examples = parallel(lambda index: _decoded(source, index), range(len(pairs)))
    read = list(tqdm.tqdm(examples, desc=f"reading {split}", total=len(pairs), unit="image"))
    report.problems += _shortened([one.problem for one in read if one.problem], split)
    return read


def _decoded(source: sources.FolderSource, index: int) -> Read:
    """An example as training sees it, or why it cannot."""
    digest, nothing = b"", np.zeros(256, np.int64)
    try:
        encoded = source.encoded(index)
        digest = hashlib.sha256(encoded.image).digest()
        image = source.decode_image(encoded)
        label = source.decode_label(encoded, image)
    except UserError as error:
        return Read(source.name(index), str(error), (0, 0), nothing, digest)
    pixels = np.bincount(label.ravel(), minlength=256)
    return Read(source.name(index), "", (label.shape[0], label.shape[1]), pixels, digest)


def _shortened(problems: list[str], split: str) -> list[str]:
    """The first problems, and how many more there are."""
    more = len(problems) - SHOWN
    return [*problems[:SHOWN], *([f"{more} more in the split {split!r}."] if more > 0 else [])]


def _masks_without_image(root: pathlib.Path, split: str) -> Iterator[str]:
    images = files_below(root / "images" / split, IMAGE_SUFFIXES)
    used = {pathlib.PurePosixPath(name).with_suffix("") for name in images.files}
    labels = root / "labels" / split
    left = [
        name
        for name in files_below(labels, (".png",)).files
        if pathlib.PurePosixPath(name).with_suffix("") not in used
    ]
    if left:
        yield f"{len(left)} masks in {labels} belong to no image: {_some(left)}."
    if images.left_out:
        yield f"{images.left_out} entries of {root / 'images' / split} are no images, or hidden."


def _sizes(sound: Mapping[str, list[Read]]) -> str:
    """A line for each split."""
    lines = [f"{'split':<7}{'images':>8}  {'smallest':<12}{'median':<12}{'largest':<12}"]
    for split, found in sound.items():
        if not found:
            lines.append(f"{split:<7}{0:>8}")
            continue
        sizes = np.array([one.size for one in found])
        corners = (sizes.min(0), np.median(sizes, 0).astype(int), sizes.max(0))
        shown = "".join(f"{f'{h}x{w}':<12}" for h, w in corners)
        lines.append(f"{split:<7}{len(found):>8}  {shown}".rstrip())
    return "\n".join([*lines, "Sizes are height x width."])


def _frequencies(dataset: Dataset, found: list[Read]) -> str:
    pixels = np.sum([one.pixels for one in found], axis=0)
    masks = np.sum([one.pixels > 0 for one in found], axis=0)
    return f"Classes in the training masks:\n{frequencies.table(dataset, pixels, masks)}"


def _class_notes(dataset: Dataset, sound: Mapping[str, list[Read]]) -> Iterator[str]:
    """What the labels of a split lack."""
    for split, found in sound.items():
        if not found:
            continue
        pixels = np.sum([one.pixels for one in found], axis=0)
        absent = [name for name, n in zip(dataset.class_names, pixels, strict=False) if not n]
        if absent:
            yield f"The split {split!r} never shows {', '.join(absent)}."
        empty = [one.name for one in found if one.pixels[IGNORED] == one.pixels.sum()]
        if empty:
            yield f"{len(empty)} masks of {split!r} are ignored everywhere: {_some(empty)}."


def _shared_images(read: Mapping[str, list[Read]]) -> Iterator[str]:
    """Images that are in more than one place: scores of images that training saw say little."""
    places = collections.defaultdict(list)
    for split, found in read.items():
        for one in found:
            if one.digest:
                places[one.digest].append((split, one.name))
    both = [
        " = ".join(f"{split}/{name}" for split, name in where)
        for where in places.values()
        if len({split for split, _ in where}) > 1
    ]
    if both:
        yield f"{len(both)} images are in both splits: {_some(both)}."


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED] + ["..."] * (len(names) > NAMED))
