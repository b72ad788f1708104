"""The images and masks of a folder of your own."""

import collections
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import polygons
from nonlocal_jax.inputs.datasets.dataset import (
    IMAGE_SUFFIXES,
    LabelTable,
    Masks,
    Pair,
    Report,
    no_mask,
    raise_,
    tree_pairs,
)
from nonlocal_jax.inputs.listing import files_below


class Names(NamedTuple):
    """A list of images.

    Attributes:
      path: of the list.
      names: paths below images/, as they are written, with or without a suffix.
    """

    path: pathlib.Path
    names: list[str]


def read_names(root: pathlib.Path, file: str) -> Names:
    """The names in a text file, one a line.

    Args:
      root: the folder.
      file: path of the list, relative to the working folder or to `root`.

    Raises:
      UserError: there is no such file, it is empty, or names an image twice.
    """
    path = pathlib.Path(file)
    path = path if path.exists() else root / path
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. It must be a text file with the name of an image in "
            "each line."
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} names no image.")
    times = collections.Counter(map(_stem, names))
    repeated = [name for name in names if times[_stem(name)] > 1]
    if repeated:
        raise UserError(f"{path} names {repeated[0]} more than once.")
    return Names(path, names)


def image_folder(root: pathlib.Path, split: str, names: Names | None) -> pathlib.Path:
    """Where the images of a split are: below images/ if a list names them."""
    return root / "images" if names is not None else root / "images" / split


def of_masks(
    root: pathlib.Path,
    split: str,
    names: Names | None,
    label_table: LabelTable | None,
    report: Report = raise_,
) -> Iterator[Pair]:
    """The pairs of a split whose masks are PNG files.

    Args:
      root: the folder.
      split: "train" or "val".
      names: of its images; None for all of images/SPLIT.
      label_table: see Pair.
      report: see `tree_pairs`.

    Raises:
      UserError: a folder, an image of the list, or a mask is missing.
    """
    if names is None:
        yield from tree_pairs(root / "images" / split, root / "labels" / split, label_table, report)
        return
    masks = Masks(root / "labels")
    for name in _listed(root / "images", names, report):
        mask = masks.of(root / "images" / name, _stem(name), report)
        if mask is not None:
            yield Pair(name, root / "images" / name, mask, label_table)


def drawn(
    root: pathlib.Path,
    split: str,
    names: Names | None,
    class_names: Sequence[str],
    outside: int | None,
    report: Report = raise_,
) -> Iterator[Pair]:
    """The pairs of a split whose masks are polygons, in labels/SPLIT.json.

    Args:
      root: the folder.
      split: "train" or "val".
      names: of its images; None for all of images/SPLIT.
      class_names: by label.
      outside: the label of pixels outside of all polygons; None if they are ignored.
      report: see `tree_pairs`.

    Raises:
      UserError: the folder, the file, an image of the list, or the entry of an image is missing.
    """
    path = root / "labels" / f"{split}.json"
    drawings = polygons.read(path, class_names, outside)
    images = image_folder(root, split, names)
    found = (
        files_below(images, IMAGE_SUFFIXES).files
        if names is None
        else _listed(images, names, report)
    )
    for name in found:
        if name in drawings:
            yield Pair(name, images / name, path, read_mask=polygons.draw, label=drawings[name])
        else:
            report(no_mask(images / name, f'entry of "file_name": "{name}" in {path}'))


def _listed(images: pathlib.Path, names: Names, report: Report) -> Iterator[str]:
    """The paths below `images` of the images in a list, in its order."""
    found: dict[str, str] = {}
    for name in files_below(images, IMAGE_SUFFIXES).files:
        stem = _stem(name)
        if stem in found:
            raise UserError(
                f"{images / found[stem]} and {images / name} share one mask. Take one of the "
                "images away, or rename it and its mask."
            )
        found[stem] = name
    for name in names.names:
        path = found.get(_stem(name))
        if path is None or (name != _stem(name) and name != path):
            report(
                UserError(
                    f"{names.path} names {name}, and there is no such image in {images}. Names are "
                    "paths below that folder, with or without a suffix."
                )
            )
        else:
            yield path


def _stem(name: str) -> str:
    """A path without the suffix of an image."""
    path = pathlib.PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)
