"""Networks by the name of a repository: what is downloaded, what is a path, what is refused."""

import functools
import shutil
import sys

import pytest
from evaluations import run_command
from hub_folders import assert_same_arrays, config_of, saved_checkpoint, saved_folder
from hub_server import COMMIT, serving
from saved import flip

import nonlocal_jax
from nonlocal_jax import export
from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.hub import download, files
from nonlocal_jax.checkpoints.model import load_model
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.restore import default_output

hub = pytest.importorskip("huggingface_hub")
OFFLINE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hub folder with a file that is none of ours."""
    root = tmp_path_factory.mktemp("hub")
    config = config_of(root)
    folder = saved_folder(saved_checkpoint(root / "saved", config), config, root / "net")
    (folder / "pytorch_model.bin").write_bytes(b"another file")
    return folder


@pytest.fixture
def served(folder, tmp_path, monkeypatch):
    """The paths that a server of some repositories was asked for; the work folder is empty."""
    other, damaged = tmp_path / "served" / "other", tmp_path / "served" / "damaged"
    other.mkdir(parents=True)
    (other / files.CONFIG).write_text("{}")
    flip(shutil.copytree(folder, damaged) / files.WEIGHTS)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    repositories = {"org/net": folder, "org/other": other, "org/damaged": damaged}
    with serving({**repositories, "org/gated": None}) as (address, asked):
        use(address, tmp_path, monkeypatch)
        yield asked


def use(address, folder, monkeypatch):
    """Makes huggingface_hub download from an address into a cache of its own."""
    fetch = functools.partial(
        snapshot_download, endpoint=address, cache_dir=folder / "cache", token=False
    )
    monkeypatch.setattr(hub, "snapshot_download", fetch)


snapshot_download = hub.snapshot_download


@pytest.mark.parametrize("name", ["org/net", "org/net@v1", f"org/net@{COMMIT}"])
def test_a_repository_is_downloaded_once_and_loaded(served, folder, name):
    found = locate.find(name)
    assert found.repository == name and str(found) == f"{name} of the Hugging Face hub"
    assert {p.name for p in found.folder.iterdir()} == {files.WEIGHTS, files.CONFIG, files.CARD}
    assert_same_arrays(load_model(name)[0], load_model(folder)[0])
    assert served.count(f"org/net/resolve/{COMMIT}/{files.WEIGHTS}") <= 2  # HEAD, then GET
    assert not [path for path in served if path.endswith(".bin")]
    assert default_output(found, "predictions").parts == ("net", "predictions")


def test_load_and_commands_take_a_repository(served, folder, tmp_path):
    model = nonlocal_jax.load("org/net")
    assert model.config == nonlocal_jax.load(folder).config
    words = ["--checkpoint=org/net", "--to=safetensors", f"--output={tmp_path}/again"]
    done = run_command(export, *words)
    assert done.returncode == 0, done.stderr
    assert "The checkpoint is org/net of the Hugging Face hub." in done.stdout
    for name in (files.WEIGHTS, files.CONFIG):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_path_of_that_name_or_of_its_first_folder_wins(served, folder):
    shutil.copytree(folder, "org/net")
    assert locate.find("org/net").repository == ""
    with pytest.raises(UserError, match=r"There is no checkpoint .*/org/nett: train one"):
        locate.find("org/nett")
    assert served == []


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("org/none", "neither a folder org/none nor a public repository org/none .*auth login"),
        ("org/gated", "org/gated of the Hugging Face hub is gated: ask for access"),
        ("org/net@v9", "org/net of the Hugging Face hub has no revision v9"),
        ("org/other", r"is no model of nonlocal_jax: it has no model\.safetensors"),
        ("org/a..b", "There is no folder org/a..b, and the Hugging Face hub has no repositories"),
        ("org/damaged", r"is damaged: the file model\.safetensors has changed"),
    ],
)
def test_what_cannot_be_downloaded_is_told_in_a_sentence(served, name, because):
    with pytest.raises(UserError, match=because) as caught:
        nonlocal_jax.load(name)
    assert "\n" not in str(caught.value)


def test_without_network_a_copy_in_the_cache_serves(served, folder, tmp_path, monkeypatch):
    load_model("org/net")
    use(OFFLINE, tmp_path, monkeypatch)
    assert_same_arrays(load_model("org/net")[0], load_model(folder)[0])
    with pytest.raises(UserError, match="no folder org/new, and the Hugging Face hub can't be"):
        load_model("org/new")


def test_without_the_extra_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    needed = r"There is no checkpoint org/net: train one.*pip install 'nonlocal_jax\[hub\]'\.$"
    with pytest.raises(UserError, match=needed):
        nonlocal_jax.load("org/net")


@pytest.mark.parametrize(
    "path", ["net", "/org/net", "./org/net", "../net", "~/net", "a/b/c", "org/", "org/net@", "C:/x"]
)
def test_what_is_no_name_of_a_repository_is_a_path(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert not download.is_repository(path)
    with pytest.raises(UserError, match="There is no checkpoint"):
        locate.find(path)
