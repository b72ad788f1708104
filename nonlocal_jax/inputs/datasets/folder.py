"""Data of your own: images/{train,val}, labels/{train,val} and a list of the classes.

The list is classes.txt, one name a line in label order, or classes.json:

    {"classes": ["road", "sky"], "palette": [[128, 64, 128], [70, 130, 180]],
     "label_map": {"7": 0, "11": 1}, "reduce_zero_label": false}

All but "classes" is optional. What the config sets as well must be equal.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import (
    UNKNOWN,
    Dataset,
    LabelTable,
    Palette,
    distinct_colours,
    without_zero,
)

READS = ("classes_file", "label_map", "reduce_zero_label")
FOLDER = "data/folder"  # if no folder is named
CLASSES_FILES = ("classes.json", "classes.txt")

_Byte = Annotated[int, Ge(0), Le(255)]


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclasses.dataclass(frozen=True)
class _Json:
    """The content of classes.json."""

    classes: list[Annotated[str, MinLen(1)]]
    palette: list[tuple[_Byte, _Byte, _Byte]] | None = None
    label_map: schema.LabelMap | None = None
    reduce_zero_label: bool | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ClassList:
    """The content of the class list.

    Attributes:
      path: of the list.
      names: one per train label.
      palette: RGB of each class.
      label_map: mask value to train label; None if the list has none.
      reduce_zero_label: whether label 0 is ignored and k is k - 1; None if the list has none.
    """

    path: pathlib.Path
    names: tuple[str, ...]
    palette: Palette
    label_map: Mapping[int, int] | None = None
    reduce_zero_label: bool | None = None


def build(data: schema.Data, data_dir: str) -> Dataset:
    """The data set in a folder.

    Raises:
      UserError: there is no class list, it is invalid, or the config contradicts it.
    """
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
        table = _label_table(label_map, reduce_zero_label, listed)
        own = _own_values(label_map, reduce_zero_label, table, len(listed.names))
    return Dataset(
        name="folder",
        class_names=listed.names,
        palette=listed.palette,
        roots=(FOLDER,),
        label_table=table,
        own_values=own,
        remedy="Give the folder that holds images/train, images/val, labels/train, labels/val and "
        "classes.txt with --config.data_dir=DIR.",
    )


def read_class_list(root: pathlib.Path, classes_file: str = "") -> ClassList:
    """Reads the class list of a folder.

    Args:
      root: the folder.
      classes_file: path of the list, relative to the working folder or to `root`; empty for
        classes.json or classes.txt in `root`.

    Raises:
      UserError: there is no such file, or it is no list of classes.
    """
    path = _find(root, classes_file)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = TypeAdapter(_Json).validate_json(text)
        else:
            content = _Json([line.strip() for line in text.splitlines() if line.strip()])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _no_list(path, f"{where}: {first['msg']}".removeprefix(": ")) from error
    except (OSError, ValueError) as error:
        raise _no_list(path, str(error)) from error
    names, colours = tuple(content.classes), content.palette
    if not 2 <= len(names) < UNKNOWN:
        raise _no_list(path, f"it has {len(names)} classes; there may be 2 to {UNKNOWN - 1}")
    unprintable = [name for name in names if not name.isprintable()]
    if unprintable:
        raise _no_list(path, f"the class {unprintable[0]!a} cannot be printed")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise _no_list(path, f"the class {repeated[0]!r} is there more than once")
    if colours is not None and len(colours) != len(names):
        raise _no_list(path, f"it has {len(names)} classes and {len(colours)} colours")
    return ClassList(
        path=path,
        names=names,
        palette=np.array(colours, np.uint8) if colours else distinct_colours(len(names)),
        label_map=content.label_map,
        reduce_zero_label=content.reduce_zero_label,
    )


def _find(root: pathlib.Path, classes_file: str) -> pathlib.Path:
    if classes_file:
        given = pathlib.Path(classes_file)
        return given if given.exists() else root / given
    for name in CLASSES_FILES:
        if (root / name).is_file():
            return root / name
    if not root.is_dir():
        raise UserError(
            f"There is no folder {root.absolute()}. Name yours with --config.data_dir=DIR."
        )
    raise UserError(
        f"{root} has no class list. Write classes.txt there, one class name a line in label "
        "order, or name a file with --config.data.classes_file=FILE."
    )


def _no_list(path: pathlib.Path, why: str) -> UserError:
    return UserError(
        f"{path} is not a class list: {why}. It must be a text file of one class name a line, or "
        'JSON {"classes": ["road", ...], "palette": [[128, 64, 128], ...]}.'
    )


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
