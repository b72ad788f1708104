"""Configs of older versions: a run and a checkpoint carry the config that they were made with.

A key that is new since then takes its default. A key that has moved is moved. An unknown key is
refused, and named.
"""

import copy
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from nonlocal_jax.errors import UserError

FORMAT = 2
MOVED = {
    "optimizer.power": "optimizer.schedule.power",
    "optimizer.min_learning_rate": "optimizer.schedule.min_learning_rate",
}
# Format 1 wrote the settings of every head, whichever was chosen.
UNREAD_BY_HEAD = {
    "nonlocal": ("num_convs",),
    "fcn": ("mode", "reduction", "use_scale", "sub_sample", "implementation"),
}


def migrate(tree: Mapping[str, Any], version: int, where: object) -> dict[str, Any]:
    """Converts a config of an older version to this version.

    Args:
      tree: its sections.
      version: the format that it was written in.
      where: the place of the config, for errors.

    Raises:
      UserError: a newer version wrote it.
    """
    if version > FORMAT:
        raise UserError(
            f"{where} has format {version}, and this version of nonlocal_jax reads up to "
            f"{FORMAT}: update nonlocal_jax."
        )
    migrated = copy.deepcopy(dict(tree))
    if version < 2:
        for old, new in MOVED.items():
            _move(migrated, old.split("."), new.split("."))
        head = migrated.get("model", {}).get("decode_head", {})
        for key in UNREAD_BY_HEAD.get(head.get("name", "nonlocal"), ()):
            head.pop(key, None)
    return migrated


def with_format(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a run's config.json."""
    return {"format": FORMAT, "config": dict(tree)}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The config in a run's config.json, of any version.

    Raises:
      UserError: it can't be read, or a newer version wrote it.
    """
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no settings")
        if "format" in content:
            version, tree = int(content["format"]), dict(content["config"])
        else:
            version, tree = 1, content
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} can't be read as a config: {error}.") from error
    return migrate(tree, version, path)


def _move(tree: dict[str, Any], old: list[str], new: list[str]) -> None:
    node: Any = tree
    for name in old[:-1]:
        node = node.get(name, {})
    if old[-1] not in node:
        return
    value, node = node.pop(old[-1]), tree
    for name in new[:-1]:
        node = node.setdefault(name, {})
    node[new[-1]] = value
