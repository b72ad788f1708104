"""The keys of a config, their ranges, and suggestions for misspelt ones."""

import dataclasses
import difflib
import typing
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from ml_collections import ConfigDict

from nonlocal_jax.config import ranges, schema, tables, versions, video
from nonlocal_jax.errors import UserError

TASKS: dict[str, type[schema.Run]] = {
    "segmentation": schema.Config,
    "video": video.VideoConfig,
}


def task_of(tree: Mapping[str, Any]) -> str:
    """The `task` of a tree, one of TASKS. A tree without one is of segmentation.

    Raises:
      UserError: there is no such task.
    """
    task = tree.get("task", schema.Config.task)
    if task not in TASKS:
        raise UserError(f"config.task is {task!r}; it must be one of {', '.join(TASKS)}.")
    return str(task)


def check(tree: Mapping[str, Any], key: str) -> None:
    """Raises a UserError that says which key may be meant, if a complete tree has no such key."""
    known = dotted_keys(tree)
    if key in known:
        return
    cls: Any = TASKS[task_of(tree)]
    node: Any = tree
    table, where = "", list[str]()
    for name in key.split("."):
        field = _fields(cls).get(name)
        if field is None:
            refuse_of_another_module(tree["task"], ".".join(where), name, table, node.get("name"))
            break
        where, node, table = [*where, name], node[name], field.metadata.get("table", "")
        cls = _section(cls, field, node, ".".join(where))
        if cls is None:
            break
    raise unknown(key, known)


def unknown(key: str, known: Collection[str]) -> UserError:
    """The error about a key that is none of the config's; it names the nearest of `known`."""
    moved = versions.MOVED.get(key)
    nearest = [moved] if moved else difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"It has: {', '.join(known)}."
    return UserError(f"The config has no key {key}. {hint}")


def refuse_of_another_module(task: str, section: str, key: str, table: str, name: str) -> None:
    """Raises a UserError if another module than the chosen one has the key.

    Args:
      task: of the config.
      section: its dotted key, as "optimizer".
      key: what the section lacks, as "momentum".
      table: that the section's module is chosen from; empty if it chooses none.
      name: of that module.
    """
    if not table or versions.MOVED.get(f"{section}.{key}"):
        return
    owners = [
        other
        for other in tables.choices(table, task, f"{section}.name")
        if key in _fields(tables.find(table, other, f"{section}.name").Options)
    ]
    if owners:
        raise UserError(
            f"The config has no key {section}.{key}: {key} is a key of {' and '.join(owners)}, and "
            f"config.{section}.name is {name}."
        )


def range_of(tree: Mapping[str, Any], key: str) -> str:
    """The range of the value at a dotted key of a complete tree, in words."""
    hint = hint_of(tree, key)
    return "a section" if dataclasses.is_dataclass(hint) else ranges.describe(hint)


def takes_texts(tree: Mapping[str, Any], key: str) -> bool:
    """Whether the value at a dotted key of a complete tree is a tuple of texts."""
    node: Any = tree
    for name in key.split("."):
        node = node[name]
    if not isinstance(node, tuple | list):  # JSON has no tuples
        return False
    hint = hint_of(tree, key)
    bare = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    return bool(bare == tuple[str, ...])


def hint_of(tree: Mapping[str, Any], key: str) -> Any:
    """The annotation of the value at a dotted key of a complete tree."""
    cls: Any = TASKS[task_of(tree)]
    node: Any = tree
    *sections, leaf = key.split(".")
    for index, name in enumerate(sections):
        node = node[name]
        cls = _section(cls, _fields(cls)[name], node, ".".join(sections[: index + 1]))
    return hints(cls)[leaf]


def dotted_keys(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All keys of a tree, sections among them."""
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, Mapping | ConfigDict):
            keys += dotted_keys(value, f"{prefix}{name}.")
    return keys


@cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of a section's fields."""
    return typing.get_type_hints(cls, include_extras=True)


def _section(cls: type, field: dataclasses.Field[Any], node: Any, key: str) -> Any:
    """The dataclass of the section in a field of `cls`; None if the field holds a value."""
    if "table" in field.metadata:
        return tables.find(field.metadata["table"], node["name"], f"{key}.name").Options
    hint = hints(cls)[field.name]
    return hint if dataclasses.is_dataclass(hint) else None


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}
