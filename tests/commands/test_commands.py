"""All commands: side by side in one process, their help, and their list."""

import ast
import importlib
import subprocess
import sys

import pytest
from absl import flags
from conftest import REPOSITORY

import nonlocal_jax
from nonlocal_jax import __main__
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import startup

PACKAGE = REPOSITORY / "nonlocal_jax"
MODULES = {name: name for name in __main__.COMMANDS} | {"train": "main"}  # what holds each
USE_JAX = {"train", "evaluate", "predict", "convert", "benchmark", "demo", "serve"}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """What runs in this process keeps no compiled programs."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")


def module(name):
    return importlib.import_module(f"nonlocal_jax.{MODULES[name]}")


def test_every_module_at_the_top_is_a_command():
    files = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert files - {"errors", "main"} == set(__main__.COMMANDS)


def test_train_and_main_are_one_command():
    assert importlib.import_module("nonlocal_jax.train").run is module("train").run


@pytest.mark.parametrize("name", MODULES)
def test_help(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert __main__.main([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert __main__.main([name, "-h"]) == 0
    assert capsys.readouterr().out == told
    assert max(map(len, told.splitlines())) <= 90
    # What it does, by itself, and how it is called.
    first = (module(name).__doc__ or "").partition("\n")[0]
    assert " ".join(told.split()).startswith(" ".join(first.split()))
    assert f"python -m nonlocal_jax.{MODULES[name]}" in told
    values = flags.FlagValues()
    module(name).define(values)
    for flag in values:
        form = f"--[no]{flag}\n" if values[flag].boolean else f"--{flag}=VALUE\n"
        assert form in told or values[flag].help.startswith("Alias for ")
    if name not in ("prepare", "report"):
        assert "--config=VALUE" in told and "model.backbone.depth=50" in told


@pytest.mark.parametrize("name", MODULES)
def test_a_wrong_flag_is_one_message(name, capsys):
    assert __main__.main([name, "--no_such_flag=3"]) == 2
    told = capsys.readouterr().err
    assert "no_such_flag" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["benchmark", "--all_rows", "--config=demo"], "leave out --config, or --all_rows"),
        (["benchmark", "--all_rows", "--config.seed=3"], "leave out --config, or --all_rows"),
        (["benchmark"], "--config is missing"),
        (["benchmark", "--config=demo", "--size=5"], "--size is '5'; it must be HEIGHT,WIDTH"),
        (["convert", "--backbone=resnet50_v1c", "--config=demo"], "leave out --config"),
        (["convert", "--export", "--backbone=resnet50_v1c"], "--export writes whole networks"),
        (["evaluate"], "--checkpoint is missing"),
        (["predict", "--checkpoint=x"], "--input is missing"),
        (["serve"], "--checkpoint is missing"),
        (["serve", "--checkpoint=x", "--warm=5"], "--warm has '5'; it must be HEIGHTxWIDTH"),
        (["serve", "--checkpoint=x", "--port=70000"], "port"),
        (["plan", "--config=demo"], "--topology is missing"),
        (["plan"], "--config is missing"),
        (["browse"], "--config is missing"),
        (["train", "--config=demo", "--config.eval.mode=foo"], "one of whole, slide"),
        (["prepare"], "Which data set?"),
        (["prepare", "nope"], "'nope' cannot be prepared; it must be one of ade20k, camvid"),
        (["train", "--config=demo", "--num_processes=2"], "go together: give all"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_one_message(
    words, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(words) == 2
    told = capsys.readouterr().err
    assert message in told and told.startswith("nonlocal_jax: ") and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_missing_data_and_backbone_are_one_message_with_both_commands(tmp_path, capsys):
    words = ["train", "--config=ade20k_r101_160k", f"--workdir={tmp_path}/run"]
    words += [f"--config.data_dir={tmp_path}/none", f"--config.init_from={tmp_path}/resnet101_v1c"]
    assert __main__.main(words) == 2
    told = capsys.readouterr().err
    for words in ("prepare ade20k", "convert --backbone=resnet101_v1c"):
        assert f"nonlocal_jax.{words}" in told or f"nonlocal-jax {words}" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(USE_JAX))
def test_commands_that_compute_start_jax_in_the_same_way(name):
    tree = ast.parse((PACKAGE / f"{MODULES[name]}.py").read_text())
    assert any(ast.unparse(node).startswith("startup.use_jax(") for node in ast.walk(tree))


def test_the_list(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert __main__.main(words) == 0
        told = capsys.readouterr().out
        assert all(name in told for name in MODULES)
        assert max(map(len, told.splitlines()[4:-1])) <= 60
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nonlocal_jax {nonlocal_jax.__version__}\n"
    assert __main__.main(["trian"]) == 2
    assert "'trian' is no command; there are train, evaluate" in capsys.readouterr().err


ALONE = """
import sys
import nonlocal_jax
loaded = {"jax", "absl", "flax", "numpy"} & set(sys.modules)
assert not loaded, loaded
assert nonlocal_jax.__version__ and "load" in dir(nonlocal_jax)

# absl's own flags, and those of the libraries; none of them is parsed.
from absl import flags
for name in nonlocal_jax.__all__:
    getattr(nonlocal_jax, name)
import importlib
for name in %s:
    importlib.import_module(f"nonlocal_jax.{name}")
ours = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith("nonlocal_jax") or m == "-c"]
assert not ours, ours
assert not flags.FLAGS.is_parsed()
assert not {"config", "checkpoint", "workdir"} & set(flags.FLAGS)
try:
    nonlocal_jax.lod
except AttributeError as error:
    assert "'nonlocal_jax' has no attribute 'lod'" in str(error)
else:
    raise AssertionError
"""


def test_importing_everything_leaves_absl_as_it_was(tmp_path):
    script = ALONE % sorted(MODULES.values())
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_both_ways_to_start_a_command_are_one():
    words = [[sys.executable, "-m", "nonlocal_jax", "browse"]]
    words += [[sys.executable, "-m", "nonlocal_jax.browse"]]
    told = [
        subprocess.run(
            [*command, "--count=0"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        for command in words
    ]
    assert told[0].returncode == told[1].returncode == 2
    assert told[0].stderr == told[1].stderr and "--count=0" in told[0].stderr


class TestStart:
    """What is said of devices that JAX can't use."""

    @pytest.fixture(autouse=True)
    def a_machine(self, tmp_path, monkeypatch):
        self.device = tmp_path / "nvidia0"
        self.pci = tmp_path / "pci" / "0000:00:04.0"
        self.pci.mkdir(parents=True)
        monkeypatch.setattr(startup, "NVIDIA", (str(self.device),))
        monkeypatch.setattr(startup, "PCI_VENDORS", str(tmp_path / "pci"))
        monkeypatch.setattr(startup, "_plugins", lambda: self.plugins)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.plugins = []

    def test_a_gpu_without_its_plugin(self, monkeypatch):
        assert startup.unused_gpu() == ""
        self.device.touch()
        assert 'pip install "nonlocal_jax[cuda13]"' in startup.unused_gpu()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # it is hidden on purpose
        assert startup.unused_gpu() == ""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        self.plugins = ["xla_cuda13"]
        assert startup.unused_gpu() == ""

    @pytest.mark.parametrize("platforms", ["foo", "cuda", "cpu,rocm"])
    def test_a_platform_that_jax_cannot_use_is_named(self, monkeypatch, platforms):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        with pytest.raises(UserError, match=f"JAX_PLATFORMS is '{platforms}'"):
            startup.use_jax()

    def test_libtpu_without_a_tpu(self, monkeypatch):
        monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: name == "libtpu")
        assert startup._has_only_an_unused_libtpu()
        (self.pci / "vendor").write_text("0x10de\n")
        assert startup._has_only_an_unused_libtpu()
        (self.pci / "vendor").write_text("0x1ae0\n")
        assert not startup._has_only_an_unused_libtpu()
        (self.pci / "vendor").unlink()
        self.plugins = ["xla_cuda13"]
        assert not startup._has_only_an_unused_libtpu()
