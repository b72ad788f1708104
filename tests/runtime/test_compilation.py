"""Compiled programs are found again by JAX, in a folder that nobody else may write to."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from jax._src import compiler
from runs import REPOSITORY

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import compilation


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """What `use_cache` sets in JAX, and no folder that a user has named."""
    seen = {}
    monkeypatch.setattr(jax.config, "update", seen.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return seen


def test_programs_are_kept_in_the_users_cache(settings, tmp_path):
    compilation.use_cache()
    folder = tmp_path / "nonlocal_jax" / "compiled"
    assert settings == {"jax_compilation_cache_dir": str(folder)}
    folder.chmod(0o777)
    compilation.use_cache()
    assert not folder.stat().st_mode & 0o022


def test_a_named_folder_is_left_to_jax(settings, monkeypatch, tmp_path):
    for name in (str(tmp_path / "mine"), "gs://bucket/compiled", ""):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", name)
        compilation.use_cache()
    assert not settings


def test_a_gpus_autotuning_results_are_kept_beside_the_programs(tmp_path):
    """JAX tells XLA so. They are most of what compiling for a GPU takes."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    build = options.executable_build_options  # which must outlive its parts
    folder = pathlib.Path(build.debug_options.xla_gpu_per_fusion_autotune_cache_dir)
    assert folder.parent == tmp_path


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o702])
def test_a_named_folder_that_others_may_write_to_is_refused(settings, monkeypatch, tmp_path, mode):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match="other users may write to it"):
        compilation.use_cache()


def test_a_folder_of_another_user_is_refused(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    monkeypatch.setattr(pathlib.Path, "stat", lambda path: os.stat_result((0o40700, *[7] * 9)))
    with pytest.raises(UserError, match="belongs to another user"):
        compilation.use_cache()


def test_without_a_place_to_keep_them_programs_are_compiled_each_time(settings, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    compilation.use_cache()
    assert not settings


def test_a_second_start_reads_what_the_first_compiled(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    words = [sys.executable, "-m", "nonlocal_jax", "benchmark", "--config=demo", "--runs=1"]
    words += ["--what=training", "--config.data.crop_size=(32,32)", "--config.batch_size=8"]
    words += ["--config.model.backbone.base_channels=4", "--config.model.decode_head.channels=8"]

    def start():
        subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, check=True)
        return {path.name for path in (tmp_path / "nonlocal_jax" / "compiled").glob("*train_step*")}

    first = start()
    assert any(name.endswith("-cache") for name in first)
    assert {name for name in start() if name.endswith("-cache")} == {
        name for name in first if name.endswith("-cache")
    }


class Lowered:
    """Stands for a program: remembers the options that it is compiled with."""

    def __init__(self, *, fails_in_graphs=False):
        self.asked, self._fails = [], fails_in_graphs

    def compile(self, options):
        self.asked.append(options)
        if self._fails and options:
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no plan")
        return "compiled"


@pytest.fixture
def new_jax(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))


def test_a_gpu_launches_convolutions_in_graphs(new_jax):
    lowered = Lowered()
    assert compilation.compile_inference(lowered, "gpu") == "compiled"
    assert lowered.asked[0][compilation.CONVOLUTIONS_IN_GRAPHS] is True
    on_cpu = Lowered()
    compilation.compile_inference(on_cpu, "cpu")
    assert on_cpu.asked == [compilation.compiler_options("cpu")]


def test_convolutions_that_no_graph_takes_are_launched_one_by_one(new_jax):
    lowered = Lowered(fails_in_graphs=True)
    assert compilation.compile_inference(lowered, "gpu") == "compiled"
    assert lowered.asked[1] == compilation.compiler_options("gpu")


def test_graphs_give_way_to_precision_to_old_versions_and_to_flags(new_jax, monkeypatch):
    exact, old, named = Lowered(), Lowered(), Lowered()
    with jax.default_matmul_precision("highest"):
        compilation.compile_inference(exact, "gpu")
    flags = f"--{compilation.CONVOLUTIONS_IN_GRAPHS}=false --xla_gpu_enable_triton_gemm=true"
    monkeypatch.setenv("XLA_FLAGS", flags)
    compilation.compile_inference(named, "gpu")
    assert "xla_gpu_enable_triton_gemm" not in compilation.compiler_options("gpu", training=True)
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    compilation.compile_inference(old, "gpu")
    assert exact.asked == old.asked == named.asked == [compilation.compiler_options("gpu")]


def test_xla_knows_the_options_of_a_gpu():
    """Every compiler parses all options, also those of other devices."""
    options = compilation.compiler_options("gpu", training=True)
    options[compilation.CONVOLUTIONS_IN_GRAPHS] = True
    assert jax.jit(lambda x: x + 1).lower(1.0).compile(options)(1.0) == 2
