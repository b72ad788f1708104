"""What can be set, in words: keys, values, ranges and docstrings, for `--help` and the docs."""

import ast
import dataclasses
import functools
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nonlocal_jax.config import ranges, schema, tables


class Setting(NamedTuple):
    """A key of the config.

    Attributes:
      key: dotted, as "model.backbone.depth".
      value: its value; None for a section.
      allowed: the values that it may have, in words; empty for a section.
      doc: what it means.
      is_section: whether it holds other settings.
    """

    key: str
    value: object
    allowed: str
    doc: str
    is_section: bool


def settings(config: schema.Run) -> list[Setting]:
    """All keys of a config, each section before what it holds."""
    return list(_settings(config, "", "", config.task))


@functools.cache
def field_docs(cls: type) -> Mapping[str, str]:
    """The docstrings of a dataclass's fields: the texts that stand below them, as one line."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for node, below in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                docs[node.target.id] = " ".join(str(below.value.value).split())
    return docs


def _settings(node: Any, prefix: str, table: str, task: str) -> Iterator[Setting]:
    """The settings of a section; its `name` is looked up in `table`, if that is not empty."""
    cls: type = type(node)
    hints = typing.get_type_hints(cls, include_extras=True)
    docs = field_docs(cls)
    for field in dataclasses.fields(node):
        key, value = f"{prefix}{field.name}", getattr(node, field.name)
        doc = docs.get(field.name, "")
        if dataclasses.is_dataclass(value):
            yield Setting(key, None, "", doc or _summary(type(value)), True)
            inner = "datasets" if key == "data" else field.metadata.get("table", "")
            yield from _settings(value, f"{key}.", inner, task)
        elif field.name == "name" and table:
            named = ", ".join(tables.choices(table, task, key))
            choices = f"one of {named}, or a module of your own"
            yield Setting(key, value, choices, doc or "Selects the module.", False)
        else:
            yield Setting(key, value, ranges.describe(hints[field.name]), doc, False)


def _summary(cls: type) -> str:
    """The first paragraph of a class's docstring, as one line."""
    return " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
