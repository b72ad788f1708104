"""A compiled program is found again if everything is as it was, and only then."""

import importlib.metadata
import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded
from conftest import REPOSITORY

from nonlocal_jax.runtime import compilation, sharding
from nonlocal_jax.training import compiled_step

LOG = logging.getLogger("nonlocal_jax")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where programs are kept, however quickly they compile."""
    monkeypatch.setattr(compilation, "WORTH_KEEPING", 0.0)
    compilation.keep_programs(str(tmp_path / "kept"))
    yield tmp_path / "kept"
    compilation.keep_programs(None)


def mesh_of(devices):
    return sharding.make_mesh(devices=jax.devices()[:devices])


class Lowering:
    """Lowers x, y -> (2 x, x - y), which takes the place of x; counts how often."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        LOG.info("it was number %d", self.times)
        x = jax.ShapeDtypeStruct((3,), jnp.float32)
        return jax.jit(lambda x, y: {"a": 2 * x, "b": (x - y,)}, donate_argnums=0).lower(x, x)


def find(lower, made_from="a config", mesh=None, name="program"):
    return compilation.find_or_compile(name, made_from, mesh or mesh_of(1), lower)


def test_a_program_is_found_without_lowering_it_and_does_the_same(folder, caplog):
    lower = Lowering()
    with caplog.at_level(logging.INFO, "nonlocal_jax"):
        find(lower)
        found = find(lower)
    assert lower.times == 1
    assert caplog.messages == ["it was number 1"] * 2  # what tracing says is not lost
    x, y = jnp.arange(3.0), jnp.ones(3)
    result = found(x, y)
    np.testing.assert_array_equal(result["a"], [0, 2, 4])
    np.testing.assert_array_equal(result["b"][0], [-1, 0, 1])
    assert x.is_deleted() and not y.is_deleted()


def config_changes(monkeypatch):
    return {"made_from": "another config"}


def name_changes(monkeypatch):
    return {"name": "another"}


def devices_change(monkeypatch):
    return {"mesh": mesh_of(2)}


def mesh_changes(monkeypatch):
    return {"mesh": sharding.make_mesh(spatial=8)}


def precision_changes(monkeypatch):
    values = {**jax.config.values, "jax_default_matmul_precision": "highest"}
    monkeypatch.setattr(type(jax.config), "values", values)
    return {}


def compiler_flags_change(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    return {}


def a_library_changes(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} of tomorrow")
    return {}


def the_code_changes(monkeypatch):
    monkeypatch.setattr(compilation, "code_digest", lambda folder: "another")
    return {}


def the_processor_changes(monkeypatch):
    monkeypatch.setattr(compilation, "_processor_features", lambda: "flags: none")
    return {}


@pytest.mark.parametrize(
    "change",
    [
        config_changes,
        name_changes,
        devices_change,
        mesh_changes,
        precision_changes,
        compiler_flags_change,
        a_library_changes,
        the_code_changes,
        the_processor_changes,
    ],
    ids=lambda change: change.__name__,
)
def test_any_change_compiles_again(change, folder, monkeypatch):
    lower = Lowering()
    find(lower, mesh=mesh_of(8) if change is mesh_changes else None)
    with monkeypatch.context() as changed:
        arguments = change(changed)
        find(lower, **arguments)
        assert lower.times == 2
        find(lower, **arguments)
        assert lower.times == 2  # and is found from then on


def test_the_digest_of_code_tells_every_change(tmp_path):
    def digest():
        return compilation.code_digest(tmp_path)

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("x = 1\n")
    seen = [digest()]
    assert digest() == seen[0]
    (tmp_path / "models" / "a.py").write_text("x = 2\n")
    seen.append(digest())
    (tmp_path / "models" / "a.py").rename(tmp_path / "models" / "b.py")
    seen.append(digest())
    (tmp_path / "c.py").write_text("")
    seen.append(digest())
    assert len(set(seen)) == 4


def programs_in(folder):
    return {file: file.stat().st_mtime_ns for file in folder.glob("*.program")}


def test_whatever_changes_beside_the_program_finds_the_same_one(folder, monkeypatch):
    lower = Lowering()
    find(lower)
    (kept,) = programs_in(folder).items()
    with monkeypatch.context() as changed:
        the_code_changes(changed)
        found = find(lower)
    find(lower, **config_changes(monkeypatch))
    assert lower.times == 3
    assert list(programs_in(folder).items()) == [kept]
    np.testing.assert_array_equal(found(jnp.ones(3), jnp.ones(3))["a"], [2, 2, 2])


def test_a_damaged_file_is_told_and_replaced(folder, caplog):
    lower = Lowering()
    find(lower)
    (file,) = programs_in(folder)
    (recipe,) = folder.glob("*.json")
    whole = file.read_bytes()
    for times, content in enumerate((whole[:-9], b"", b"nothing", whole[40:]), start=2):
        file.write_bytes(content)
        caplog.clear()
        find(lower)
        assert lower.times == times
        assert f"{file} can't be used, and is compiled again" in caplog.text
        find(lower)
        assert lower.times == times
    for content in (b"", b"[1", recipe.read_bytes()[:-9]):
        recipe.write_bytes(content)
        find(lower)
        find(lower)
    assert lower.times == times + 3
    assert set(folder.iterdir()) == {file, recipe}


def test_a_recipe_whose_program_is_gone_is_no_use(folder):
    lower = Lowering()
    find(lower)
    (file,) = programs_in(folder)
    file.unlink()
    find(lower)
    assert lower.times == 2 and file.exists()


def test_a_folder_that_cannot_be_written_costs_only_time(folder, caplog):
    folder.write_text("a file")
    lower = Lowering()
    find(lower)
    result = find(lower)(jnp.ones(3), jnp.ones(3))
    np.testing.assert_array_equal(result["a"], [2, 2, 2])
    assert lower.times == 2
    assert "can't be written, and is made again next time" in caplog.text


def test_what_compiles_quickly_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(compilation, "WORTH_KEEPING", 100.0)
    find(Lowering())
    assert not folder.exists()


def test_functions_in_a_notebook_buckets_and_several_processes_are_always_compiled(
    folder, monkeypatch
):
    lower = Lowering()
    for kept_in in (None, "gs://bucket/compiled", ""):
        compilation.keep_programs(kept_in)
        find(lower)
        find(lower)
    assert lower.times == 6
    compilation.keep_programs(str(folder))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    find(lower)
    find(lower)
    assert lower.times == 8
    assert not folder.exists()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_a_train_step_that_was_found_trains_as_the_one_that_was_compiled(
    shape, folder, monkeypatch
):
    sharded.shrink(monkeypatch)
    config, mesh = sharded.config(), sharded.mesh_of(*shape)
    network, optimizer = (
        compiled_step.network_on(config, mesh),
        compiled_step.make_optimizer(config),
    )
    first = compiled_step.compile_train_step(config, network, optimizer, mesh)
    monkeypatch.setattr(compiled_step, "lower_train_step", None)
    second = compiled_step.compile_train_step(config, network, optimizer, mesh)
    ours, theirs = (sharded.results(step, config, mesh) for step in (first, second))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_commands_keep_their_programs_and_other_files_leave_that_to_jax(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    folder = tmp_path / "nonlocal_jax" / "compiled"

    def start(*what):
        done = subprocess.run(
            [
                sys.executable,
                *what,
                "--config=configs/demo.py",
                "--config.model.backbone.stem_channels=4",
                "--config.model.backbone.base_channels=4",
                "--config.model.decode_head.channels=8",
                "--config.batch_size=8",
                "--config.data.crop_size=(32,32)",
                "--what=training",
                "--runs=1",
            ],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "attention: chunked" in done.stderr
        return programs_in(folder)

    file, command = ("nonlocal_jax/benchmark.py",), ("-m", "nonlocal_jax.benchmark")
    assert not start(*file)
    # JAX has the program by now. What is only read can't be kept: it is compiled once more.
    kept = start(*command)
    assert len(kept) == 1
    assert start(*command) == kept
    for recipe in folder.glob("*.json"):  # as if a comment had changed
        recipe.unlink()
    assert start(*command) == kept
    assert start(*command) == kept
