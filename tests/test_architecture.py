"""The house: rooms, the direction of imports, and what every public name has."""

import ast
import dataclasses
import importlib
import itertools

import pytest
from conftest import REPOSITORY

from nonlocal_jax.config import describe, files, schema, tables

PACKAGE = REPOSITORY / "nonlocal_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = (
    "benchmark",
    "browse",
    "convert",
    "demo",
    "evaluate",
    "export",
    "main",
    "plan",
    "predict",
    "prepare",
    "report",
    "serve",
    "train",
)
# A room may import those below its own line.
FLOORS = (
    ("__main__",),
    COMMANDS,
    ("performance", "exporting", "serving"),
    ("training",),
    ("evaluation",),
    ("reporting",),
    ("checkpoints",),
    ("runtime",),
    ("models", "inputs"),
    ("ops",),
    ("config",),
    ("errors",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_ROOMS = 27
# Rooms whose functions take sections and plain values; builders, named `of`, take a whole config.
WITHOUT_CONFIG = ("ops", "models", "reporting", "runtime", "inputs")
LARGEST_FILE, LONGEST_FUNCTION = 400, 80
LONG = {"class_names.py"}


def room(path):
    """The room of a file: its folder in the package, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(module, name) of every import in a file; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def own_rooms(path):
    """The rooms that a file imports. The version of the package is in none."""
    for module, name in imports(path):
        parts = f"{module}.{name}".split(".")
        if parts[0] == "nonlocal_jax" and parts[1] not in ("", "__version__"):
            yield parts[1]


def test_the_top_level_is_small_and_each_name_on_it_has_a_floor():
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert rooms == set(FLOOR)
    assert len(rooms) <= MOST_ROOMS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = room(path)
    if mine in ("__init__", "__main__"):  # they import by name, when asked
        return
    for theirs in own_rooms(path):
        alias = mine == "train" and theirs == "main"
        allowed = theirs == mine or alias or FLOOR.get(theirs, -1) > FLOOR[mine]
        assert allowed, f"{mine} imports {theirs}"
    roots = {module.split(".")[0] for module, _ in imports(path)}
    assert not roots & {"configs", "data", "tests"}


def test_nothing_imports_a_command():
    for path, theirs in ((p, r) for p in FILES if room(p) != "__main__" for r in own_rooms(p)):
        mine = room(path)
        alias = mine == "train" and theirs == "main"  # one command by two names
        assert theirs not in COMMANDS or theirs == mine or alias, path


def test_files_of_a_room_import_each_other_in_no_circle():
    edges = {}
    for path in FILES:
        dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        found = itertools.chain.from_iterable(
            (module, f"{module}.{name}") for module, name in imports(path)
        )
        edges[dotted] = {module for module in found if module.startswith("nonlocal_jax")}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_, module])
        if module in edges and module not in done:
            open_.append(module)
            for other in edges[module] - {module}:
                visit(other)
            open_.pop()
            done.add(module)

    for module in edges:
        visit(module)


def test_flags_belong_to_commands():
    for path in FILES:
        flagged = {f"{module}.{name}" for module, name in imports(path)} & {
            "absl.flags",
            "absl.flags.",
            "ml_collections.config_flags",
        }
        allowed = room(path) in COMMANDS or path.parent == PACKAGE / "config"
        assert allowed or not flagged, path


def test_a_config_dict_lives_in_the_config_room_alone():
    for path in FILES:
        if room(path) != "config":
            assert not any(module.startswith("ml_collections") for module, _ in imports(path)), path


def test_only_builders_see_a_whole_config():
    for path in FILES:
        if room(path) not in WITHOUT_CONFIG:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name != "of":
                given = [ast.unparse(a.annotation) for a in node.args.args if a.annotation]
                assert not {"Config", "schema.Config"} & set(given), f"{path}: {node.name}"


def test_what_is_for_workers_never_imports_jax():
    for path in (PACKAGE / "inputs").rglob("*.py"):
        roots = {module.split(".")[0] for module, _ in imports(path)}
        assert not roots & {"jax", "flax", "optax", "orbax"}, path


def test_nothing_needs_tensorflow_to_be_imported():
    for path in FILES:
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import)]
        names = {alias.name.split(".")[0] for node in top for alias in node.names}
        assert not {"tensorflow", "tensorboardX"} & names, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_is_public_is_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in public_definitions(tree):
        assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef):
            for argument in [*node.args.args, *node.args.kwonlyargs]:
                typed = argument.annotation or argument.arg in ("self", "cls")
                assert typed, f"{node.name}({argument.arg})"


def public_definitions(node):
    """Functions and classes of a module, and methods of the latter; nothing with an underscore."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            if any(ast.unparse(mark) == "overload" for mark in child.decorator_list):
                continue  # the definition after them has the docstring
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


def test_files_and_functions_are_short():
    for path in FILES:
        assert path.name in LONG or len(path.read_text().splitlines()) <= LARGEST_FILE, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno
                assert length < LONGEST_FUNCTION, f"{path}: {node.name}"


ENTRIES = [(table, name) for table, known in tables.TABLES.items() for name in known]


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_a_module_of_a_table_has_what_is_built_and_what_can_be_set(table, name):
    module = tables.find(table, name, "a key")
    assert callable(module.build) and module.__doc__
    if table in ("datasets", "metrics", "tasks", "writers"):
        return
    bases = {
        "backbones": schema.BackboneOptions,
        "heads": schema.HeadOptions,
        "losses": schema.LossOptions,
        "optimizers": schema.OptimizerOptions,
        "schedules": schema.ScheduleOptions,
    }
    assert issubclass(module.Options, bases[table])
    assert {f.name: f.default for f in dataclasses.fields(module.Options)}["name"] == name


def test_a_table_names_modules_of_its_own_room():
    for table, known in tables.TABLES.items():
        for path in known.values():
            assert f".{table}." in path and importlib.util.find_spec(path), path


def test_every_setting_says_what_it_means():
    for setting in describe.settings(files.load("demo")):
        assert setting.doc, setting.key


def test_configs_import_nothing_but_ml_collections_and_what_they_share():
    for path in (REPOSITORY / "configs").glob("*.py"):
        modules = {module for module, _ in imports(path)}
        assert modules <= {"ml_collections", "nonlocal_jax.config"}, path
