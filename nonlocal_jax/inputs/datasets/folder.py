"""Data of your own: images/{train,val}, labels/{train,val} and a list of the classes.

inputs/class_list.py says what the list may hold. What the config sets as well must be equal. Masks
are PNG files of the same paths as their images. Masks of polygons are labels/train.json and
labels/val.json.

With `config.data.train_list` and `val_list`, text files say which images a split has. With
`config.data.folders` the data set is several folders of this form, whose classes are the same.
"""

import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.class_list import ClassList, read_class_list
from nonlocal_jax.inputs.colours import ColourMasks
from nonlocal_jax.inputs.datasets import folder_pairs
from nonlocal_jax.inputs.datasets.dataset import (
    Dataset,
    LabelTable,
    Pair,
    Report,
    raise_,
    without_zero,
)

READS = (
    *("classes_file", "label_map", "reduce_zero_label"),
    *("train_list", "val_list", "folders", "folder_weights"),
)
FOLDER = "data/folder"  # if no folder is named


def build(data: schema.Data, data_dir: str) -> Dataset:
    """The data set in a folder, or in several.

    Raises:
      UserError: there is no class list, it is invalid, the config contradicts it, or folders have
        other classes than the first one.
    """
    if not data.folders:
        return _one(data, data_dir)
    for folder in data.folders:
        if not pathlib.Path(folder).is_dir():
            raise UserError(
                f"There is no folder {folder}, which config.data.folders names. Several are "
                "written as --config.data.folders=\"('a','b')\"."
            )
    parts = [_one(data, folder) for folder in data.folders]
    first = parts[0]
    for folder, part in zip(data.folders, parts, strict=True):
        if part.class_names != first.class_names:
            raise UserError(
                f"{folder} has the classes {', '.join(part.class_names)}, and {data.folders[0]} "
                f"has {', '.join(first.class_names)}. All of config.data.folders need the same "
                "classes in the same order."
            )
    return Dataset(
        name="folders",  # prepared files of a single folder are not theirs
        class_names=first.class_names,
        palette=first.palette,
        roots=data.folders[:1],
        list_pairs=functools.partial(_joined, data=data, parts=parts),
        weights=data.folder_weights,
        remedy="Each of config.data.folders holds images, labels and classes.txt.",
    )


def _one(data: schema.Data, data_dir: str) -> Dataset:
    """The data set in one folder."""
    listed = read_class_list(pathlib.Path(data_dir or FOLDER), data.classes_file)
    label_map = dict(data.label_map)
    if listed.label_map is not None:
        _check_equal(listed, "label_map", dict(listed.label_map), label_map or None)
        label_map = dict(listed.label_map)
    reduce_zero_label = data.reduce_zero_label
    if listed.reduce_zero_label is not None:
        said = data.reduce_zero_label or None
        _check_equal(listed, "reduce_zero_label", listed.reduce_zero_label, said)
        reduce_zero_label = listed.reduce_zero_label
    table: LabelTable | None = None
    own: tuple[int, ...] = ()
    if label_map or reduce_zero_label:
        if listed.masks != "values":
            raise UserError(
                "config.data.label_map and config.data.reduce_zero_label are for masks of values; "
                f"{listed.path} says that these are of {listed.masks}. Leave them out."
            )
        table = _label_table(label_map, reduce_zero_label, listed)
        own = _own_values(label_map, reduce_zero_label, table, len(listed.names))
    return Dataset(
        name="folder",
        class_names=listed.names,
        palette=listed.palette,
        roots=(FOLDER,),
        label_table=table,
        own_values=own,
        list_pairs=functools.partial(
            pairs_of,
            listed=listed,
            table=table,
            lists={"train": data.train_list, "val": data.val_list},
        ),
        remedy="Give the folder that holds images/train, images/val, labels/train, labels/val and "
        "classes.txt with --config.data_dir=DIR.",
    )


def pairs_of(
    root: pathlib.Path,
    split: str,
    *,
    listed: ClassList,
    table: LabelTable | None,
    lists: Mapping[str, str],
    report: Report = raise_,
) -> Iterator[Pair]:
    """The pairs of a folder's split, with what reads their masks.

    Args:
      root: the folder.
      split: "train" or "val".
      listed: its class list.
      table: from the values of its masks to labels.
      lists: a file with names for each split; empty for all of images/SPLIT.
      report: see `tree_pairs`.

    Raises:
      UserError: a folder or a list is missing; and see `tree_pairs`.
    """
    names = folder_pairs.read_names(root, lists[split]) if lists[split] else None
    if listed.masks == "polygons":
        pairs: Iterable[Pair] = folder_pairs.drawn(
            root, split, names, listed.names, listed.outside, report
        )
    else:
        pairs = folder_pairs.of_masks(root, split, names, table, report)
    colours = None
    if listed.masks == "colours":
        palette = tuple((int(r), int(g), int(b)) for r, g, b in listed.palette)
        colours = ColourMasks(palette, listed.ignored_colours)
    return (pair if colours is None else replace(pair, read_mask=colours) for pair in pairs)


def _joined(
    first: pathlib.Path, split: str, *, data: schema.Data, parts: list[Dataset]
) -> Iterator[Pair]:
    """The pairs of several folders. A folder without images/val takes no part in validation.

    Names begin with that of the folder, or with its number where folders have the same name.
    """
    roots = [pathlib.Path(folder) for folder in data.folders]
    last = [root.resolve().name for root in roots]
    for number, (root, part) in enumerate(zip(roots, parts, strict=True)):
        if split == "val" and not data.val_list and not (root / "images" / "val").is_dir():
            continue
        prefix = last[number] if last.count(last[number]) == 1 else str(number)
        for pair in part.pairs(root, split):
            yield replace(pair, name=f"{prefix}/{pair.name}", part=number)


def _check_equal(listed: ClassList, key: str, stated: object, configured: object) -> None:
    if configured is not None and configured != stated:
        raise UserError(
            f"config.data.{key} is {configured!r}, and {listed.path} states {stated!r}. Leave one "
            "of them out."
        )


def _label_table(
    label_map: Mapping[int, int], reduce_zero_label: bool, listed: ClassList
) -> LabelTable:
    """Applies the map first, as the reference does. Then 0 is ignored and k becomes k - 1."""
    table = np.arange(256, dtype=np.uint8)
    least = 1 if reduce_zero_label else 0
    most = len(listed.names) - 1 + least
    for value, label in label_map.items():
        if label > most and label != IGNORED:
            raise UserError(
                f"The label map of {listed.path} has {value}: {label}; a label must be {least} to "
                f"{most}, or {IGNORED} for ignored."
            )
        table[value] = label
    return without_zero(table) if reduce_zero_label else table


def _own_values(
    label_map: Mapping[int, int], reduce_zero_label: bool, table: LabelTable, classes: int
) -> tuple[int, ...]:
    """A mask value for each class: the first one in the map, else the one that is not mapped."""
    own = []
    for label in range(classes):
        unmapped = label + 1 if reduce_zero_label else label
        values = [v for v in (*sorted(label_map), unmapped) if table[v] == label]
        own.append(values[0] if values else -1)
    return tuple(own)
