"""From a config's file to the frozen dataclasses of schema.py.

A file of configs/ has `get_config()`, which returns an ml_collections ConfigDict. It states what
differs from the defaults. Overrides are applied, then every value is checked. The `config.json` of
a run is read in the same way.
"""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ml_collections import ConfigDict
from pydantic import ConfigDict as Rules
from pydantic import TypeAdapter, ValidationError

from nonlocal_jax.config import keys, ranges, schema, tables, versions
from nonlocal_jax.errors import UserError

Tree = dict[str, Any]
PACKAGE = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")  # installed, and in the repository


def load(name: str | os.PathLike[str], **overrides: object) -> schema.Run:
    """A config by its path, or by the name of one that is installed.

    Args:
      name: "configs/ade20k_r50_80k.py", "ade20k_r50_80k", "dnl:ade20k_r50_80k" for a row of a file
        that has several, or the config.json of a run.
      **overrides: values by dotted key, as in `load(name, **{"model.backbone.depth": 18})`.

    Raises:
      UserError: there is no such config or key, or a value is out of its range.
    """
    return override(read(name), **overrides)


def override(config: ConfigDict | schema.Run, **overrides: object) -> schema.Run:
    """A config with other values, by dotted key; see `load`.

    Raises:
      UserError: there is no such key, or a value is out of its range.
    """
    tree = to_tree(config) if isinstance(config, schema.Run) else config.to_dict()
    whole = complete(tree, chosen_names(overrides))
    check_task(whole, overrides.get("task", whole["task"]))
    for key, value in overrides.items():
        keys.check(whole, key)
        *sections, name = key.split(".")
        node = whole
        for section in sections:
            node = node[section]
        node[name] = value
    return validate(whole)


def find(name: str | os.PathLike[str]) -> pathlib.Path:
    """The file of a config, by path or by name.

    Raises:
      UserError: there is none.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    for folder in FOLDERS:
        if (installed := folder / f"{path.stem}.py").is_file():
            return installed
    known = names()
    nearest = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.4)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"There are: {', '.join(known)}."
    raise UserError(f"There is no config {name}. {hint} A file is given by its path.")


def names() -> list[str]:
    """The configs that are installed, by name."""
    found = {path.stem for folder in FOLDERS for path in folder.glob("[a-z]*.py")}
    return sorted(found)


def rows(name: str | os.PathLike[str]) -> list[str]:
    """The rows of a config's file, its table `ROWS`: what `NAME:ROW` selects. [] if it has none.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    path = find(name)
    return [] if path.suffix == ".json" else list(_namespace(path).get("ROWS", ()))


def names_with_rows() -> list[str]:
    """What `load` takes of what is installed: each config, and in a file of several, each row."""
    return [
        full for name in names() for full in ([f"{name}:{row}" for row in rows(name)] or [name])
    ]


def read(name: str | os.PathLike[str]) -> ConfigDict:
    """The unchecked config of a file. `NAME:ARGUMENT` passes an argument, such as a row.

    Raises:
      UserError: there is no such file, or it is no config.
    """
    text, argument = os.fspath(name), None
    if not pathlib.Path(text).is_file() and ":" in text:
        text, _, argument = text.rpartition(":")
    path = find(text)
    if path.suffix == ".json":
        return ConfigDict(versions.read_json(path))
    with _beside(path):
        return _run(path, argument)


def complete(given: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Tree:
    """A config with defaults for all keys that `given` leaves out.

    Args:
      given: some settings, as nested mappings.
      names: other names of chosen sections by their key, as {"model.decode_head": "fcn"}. Settings
        of the section's own choice that the other one lacks are dropped.

    Raises:
      UserError: a key is none of the config's.
    """
    task = keys.task_of(given)
    return _complete(keys.TASKS[task], given, "", names or {}, task=task)


def validate(tree: Mapping[str, Any]) -> schema.Run:
    """The checked config of a complete tree.

    Raises:
      UserError: with a line for every value that is out of its range, and what the range is.
    """
    problems: list[str] = []
    config: Any = _build(keys.TASKS[keys.task_of(tree)], tree, "", problems)
    problems = problems or config.problems()
    if problems:
        raise UserError("\n".join(problems))
    tables.check("datasets", config.data.name, "data.name", config.task)
    for metric in getattr(config.eval, "metrics", ()):
        tables.check("metrics", metric, "eval.metrics")
    for writer in config.log_to:
        tables.check("writers", writer, "log_to")
    if config.precision == "highest" and config.model.dtype == "auto":
        model = dataclasses.replace(config.model, dtype="float32")
        config = dataclasses.replace(config, model=model)
    return typing.cast(schema.Run, config)


def to_tree(config: schema.Run) -> Tree:
    """The config as nested dicts, which JSON can hold."""
    return dict(_with_text_keys(dataclasses.asdict(config)))


def flatten(tree: object, prefix: str = "") -> dict[str, Any]:
    """A tree's leaves by dotted key."""
    if not isinstance(tree, Mapping):
        return {prefix.removesuffix("."): tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}."))
    return flat


def chosen_names(overrides: Mapping[str, object]) -> dict[str, str]:
    """Names of chosen sections among overrides, by the section's key."""
    return {
        key.removesuffix(".name"): str(value)
        for key, value in overrides.items()
        if key.endswith(".name")
    }


def check_task(config: Mapping[str, Any], task: object) -> None:
    """Raises a UserError if `task` is not the config's, whose sections are those of its task."""
    if task != config["task"]:
        raise UserError(f"config.task is {task!r}; it must be {keys.range_of(config, 'task')}.")


@contextlib.contextmanager
def _beside(path: pathlib.Path) -> Iterator[None]:
    """Lets a config file import the modules beside it."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _run(path: pathlib.Path, argument: str | None) -> ConfigDict:
    namespace = _namespace(path)
    if "get_config" not in namespace:
        raise UserError(f"{path} is no config: it has no get_config().")
    with _told(path):
        config = namespace["get_config"](*(() if argument is None else (argument,)))
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path} is no config: get_config() must return a ConfigDict.")
    return config


def _namespace(path: pathlib.Path) -> dict[str, Any]:
    """The names that a config's file defines."""
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    with _told(path):
        exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever the code of a config raises into a UserError with file and line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        where = f"{path}, line {lines[-1]}" if lines else f"{path}"
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _complete(
    cls: type, given: Mapping[str, Any], key: str, names: Mapping[str, str], *, task: str
) -> Tree:
    """A section with its defaults filled in; `key` ends with a dot, or is empty."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = [name for name in given if name not in fields]
    if unknown:
        raise keys.unknown(f"{key}{unknown[0]}", [f"{key}{name}" for name in fields])
    tree: Tree = {}
    hints = keys.hints(cls)
    for name, f in fields.items():
        if "table" in f.metadata:
            tree[name] = _complete_chosen(f, given.get(name, {}), f"{key}{name}", names, task)
        elif dataclasses.is_dataclass(hints[name]):
            section = _mapping(given.get(name, {}), f"{key}{name}")
            tree[name] = _complete(hints[name], section, f"{key}{name}.", names, task=task)
        else:
            tree[name] = given[name] if name in given else _default(f)
    return tree


def _complete_chosen(
    f: dataclasses.Field[Any], given: object, key: str, names: Mapping[str, str], task: str
) -> Tree:
    """A section whose keys are the options of the module that its name stands for."""
    table, values = f.metadata["table"], f.metadata["values"]
    section = dict(_mapping(given, key))
    own = section.get("name") or values["name"]
    name = names.get(key) or own
    options = tables.find_for(task, table, name, f"{key}.name").Options
    allowed = {option.name for option in dataclasses.fields(options)}
    if name != own:  # settings of the config's own choice do not apply to the other one
        former = dataclasses.fields(tables.find(table, own, f"{key}.name").Options)
        dropped = {option.name for option in former} - allowed
        section = {k: v for k, v in section.items() if k not in dropped}
    if name != values["name"]:
        usual = _complete_chosen(f, {}, key, {}, task)
        section = {
            k: v for k, v in section.items() if k in allowed or k not in usual or usual[k] != v
        }
    for unknown in section.keys() - allowed:
        keys.refuse_of_another_module(task, key, unknown, table, name)
    preset = {k: v for k, v in values.items() if k in allowed}
    whole = {**preset, **section, "name": name}
    return _complete(options, whole, f"{key}.", names, task=task)


def _mapping(given: object, key: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping | ConfigDict):
        return typing.cast(Mapping[str, Any], given)
    raise UserError(f"config.{key} is {given!r}; it is a section with settings of its own.")


def _default(f: dataclasses.Field[Any]) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return f.default


def _build(cls: type, tree: Mapping[str, Any], key: str, problems: list[str]) -> Any:
    """An instance of a section. Wrong values are added to `problems`."""
    hints, values = keys.hints(cls), {}
    for f in dataclasses.fields(cls):
        where = f"{key}{f.name}"
        if "table" in f.metadata:
            module = tables.find(f.metadata["table"], tree[f.name]["name"], f"{where}.name")
            values[f.name] = _build(module.Options, tree[f.name], f"{where}.", problems)
        elif dataclasses.is_dataclass(hints[f.name]):
            section = typing.cast(type, hints[f.name])
            values[f.name] = _build(section, tree[f.name], f"{where}.", problems)
        else:
            values[f.name] = _leaf(cls, f.name, tree[f.name], where, problems)
    return None if problems else cls(**values)


def _leaf(cls: type, name: str, value: object, key: str, problems: list[str]) -> object:
    if isinstance(value, list):  # JSON has no tuples
        value = tuple(value)
    try:
        return _adapter(cls, name).validate_python(value, strict=True)
    except ValidationError:
        problems.append(
            f"config.{key} is {value!r}; it must be {ranges.describe(keys.hints(cls)[name])}."
        )
        return None


@cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(keys.hints(cls)[name], config=Rules(allow_inf_nan=False))


def _with_text_keys(tree: object) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _with_text_keys(value) for key, value in tree.items()}
    return tree
