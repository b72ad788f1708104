"""Imports point one way, and every public name says what it is."""

import ast
import pathlib

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "nonlocal_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# A module may import what stands below its own line in this list.
LAYERS = (
    ("main", "demo", "predict", "browse", "plan", "benchmark"),
    ("train", "planning"),
    ("evaluate",),
    ("api", "batching", "programs"),
    ("convert", "distributed", "initialize", "inference", "outputs", "train_step"),
    (
        "cli",
        "checkpoints",
        "cluster",
        "inputs",
        "losses",
        "models",
        "preemption",
        "sharding",
        "step_metrics",
        "visualize",
        "workdir",
    ),
    ("buckets", "checkpoint_files", "compilation", "metrics", "ops", "optimizers", "run_log"),
    ("errors",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def part(path):
    """The layer's name of a file: its folder in the package, or its own name."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imported_modules(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "nonlocal_jax":
                yield from (f"nonlocal_jax.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = part(path)
    if mine == "__init__":
        return
    for module in imported_modules(path):
        if module.startswith("nonlocal_jax."):
            theirs = module.split(".")[1]
            if theirs != mine:
                assert RANK[theirs] > RANK[mine], f"{mine} imports {theirs}"
        assert module.split(".")[0] not in ("configs", "data", "tests")


def test_what_is_for_workers_never_imports_jax():
    for path in (PACKAGE / "inputs").rglob("*.py"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert not roots & {"jax", "flax", "optax", "orbax"}, path


def test_nothing_needs_tensorflow_to_be_imported():
    for path in FILES:
        tree = ast.parse(path.read_text())
        top = {
            alias.name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        } | {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        assert not {"tensorflow", "clu", "clu.metric_writers", "metric_writers"} & top, path


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
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


def test_files_and_functions_are_short():
    for path in FILES:
        if path.name != "class_names.py":
            assert len(path.read_text().splitlines()) <= 400, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                limit = 150 if node.name == "train" else 100
                assert node.end_lineno - node.lineno < limit, f"{path}: {node.name}"


def test_configs_import_nothing_but_ml_collections():
    for path in pathlib.Path(REPOSITORY / "configs").glob("*.py"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert roots <= {"ml_collections", "configs"}, path
