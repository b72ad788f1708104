"""The list of classes in a folder of your own: classes.txt or classes.json.

classes.txt has one name a line, in label order. classes.json may have more:

    {"classes": ["road", "sky"], "palette": [[128, 64, 128], [70, 130, 180]],
     "label_map": {"7": 0, "11": 1}, "reduce_zero_label": false,
     "masks": "values", "ignored_colours": [[0, 0, 0]], "outside": "road"}

All but "classes" is optional. "masks" says what the masks are:

- values: PNG files whose pixels are numbers, of which "label_map" and "reduce_zero_label" make
  labels;
- colours: PNG files whose pixels have colours of the palette, or "ignored_colours";
- polygons: COCO's JSON, with pixels of the class "outside" between the polygons, or ignored ones.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.datasets.dataset import UNKNOWN, Palette, distinct_colours

CLASSES_FILES = ("classes.json", "classes.txt")

Masks = Literal["values", "colours", "polygons"]
_Byte = Annotated[int, Ge(0), Le(255)]
_Colours = list[tuple[_Byte, _Byte, _Byte]]


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclasses.dataclass(frozen=True)
class _Json:
    """The content of classes.json."""

    classes: list[Annotated[str, MinLen(1)]]
    palette: _Colours | None = None
    label_map: schema.LabelMap | None = None
    reduce_zero_label: bool | None = None
    masks: Masks = "values"
    ignored_colours: _Colours | None = None
    outside: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ClassList:
    """The content of the class list.

    Attributes:
      path: of the list.
      names: one per train label.
      palette: RGB of each class.
      label_map: mask value to train label; None if the list has none.
      reduce_zero_label: whether label 0 is ignored and k is k - 1; None if the list has none.
      masks: what the masks are.
      ignored_colours: colours in masks that are no class.
      outside: the label between polygons; None if such pixels are ignored.
    """

    path: pathlib.Path
    names: tuple[str, ...]
    palette: Palette
    label_map: Mapping[int, int] | None = None
    reduce_zero_label: bool | None = None
    masks: Masks = "values"
    ignored_colours: tuple[tuple[int, int, int], ...] = ()
    outside: int | None = None


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
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            json.loads(text, object_pairs_hook=_without_repetition)
            content = TypeAdapter(_Json).validate_json(text)
        else:
            content = _Json([line.strip() for line in text.splitlines() if line.strip()])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _no_list(path, f"{where}: {first['msg']}".removeprefix(": ")) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _no_list(path, str(error)) from error
    if problem := _names_problem(content) or _masks_problem(content):
        raise _no_list(path, problem)
    names, colours, outside = tuple(content.classes), content.palette, content.outside
    return ClassList(
        path=path,
        names=names,
        palette=np.array(colours, np.uint8) if colours else distinct_colours(len(names)),
        label_map=content.label_map,
        reduce_zero_label=content.reduce_zero_label,
        masks=content.masks,
        ignored_colours=tuple(content.ignored_colours or ()),
        outside=None if outside is None else names.index(outside),
    )


def _without_repetition(entries: list[tuple[str, object]]) -> None:
    """Refuses keys that are there more than once: JSON takes the last one."""
    keys = [str(int(key)) if key.isdecimal() else key for key, _ in entries]
    repeated = [key for key in keys if keys.count(key) > 1]
    if repeated:
        raise ValueError(f'"{repeated[0]}" is there more than once')


def _names_problem(content: _Json) -> str | None:
    names, colours = content.classes, content.palette
    if not 2 <= len(names) < UNKNOWN:
        return f"it has {len(names)} classes; there may be 2 to {UNKNOWN - 1}"
    unprintable = [name for name in names if not name.isprintable()]
    if unprintable:
        return f"the class {unprintable[0]!a} cannot be printed"
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        return f"the class {repeated[0]!r} is there more than once"
    if colours is not None and len(colours) != len(names):
        return f"it has {len(names)} classes and {len(colours)} colours"
    return None


def _masks_problem(content: _Json) -> str | None:
    """What the keys for one kind of masks and the kind itself contradict each other in."""
    masks, colours = content.masks, content.palette
    if masks != "values" and (content.label_map or content.reduce_zero_label):
        return f'"label_map" and "reduce_zero_label" are for masks of values, not of {masks}'
    if content.ignored_colours is not None and masks != "colours":
        return '"ignored_colours" is for "masks": "colours"'
    if content.outside is not None and masks != "polygons":
        return '"outside" is for "masks": "polygons"'
    if content.outside is not None and content.outside not in content.classes:
        return f'"outside" is {content.outside!r}, which is no class'
    if masks == "colours":
        if colours is None:
            return '"masks": "colours" needs a "palette"'
        used = [*colours, *(content.ignored_colours or ())]
        repeated = [colour for colour in used if used.count(colour) > 1]
        if repeated:
            return f"the colour {list(repeated[0])} has more than one meaning"
    return None


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
