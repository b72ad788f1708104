"""What is installed works from any folder, without the repository."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import cv2
import numpy as np
import pytest
from conftest import REPOSITORY

import nonlocal_jax

FILES = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE")
HELD = ("*.py", "*.txt", "README.md", "py.typed", "*.html", "*.css", "*.js")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the working tree, built beside it."""
    pytest.importorskip("setuptools", minversion="77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in FILES:
        shutil.copy(REPOSITORY / name, source)
    for root in ("nonlocal_jax", "configs", "data"):
        for pattern in HELD:
            for path in (REPOSITORY / root).rglob(pattern):
                copy = source / path.relative_to(REPOSITORY)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


def python_files(folder):
    """Its Python files, as they are called below `nonlocal_jax/` in the wheel."""
    prefix = "" if folder == "nonlocal_jax" else f"{folder}/"
    root = REPOSITORY / folder
    return {
        f"nonlocal_jax/{prefix}{path.relative_to(root)}"
        for path in root.rglob("*.py")
        if not any(part.startswith((".", "_")) and "__" not in part for part in path.parts[:-1])
    }


def test_setup_cfg_lists_every_package():
    listed = configparser.ConfigParser()
    listed.read(REPOSITORY / "setup.cfg")
    packages = set(listed["options"]["packages"].split())
    files = set().union(*map(python_files, ("nonlocal_jax", "configs", "data")))
    expected = {name.rpartition("/")[0].replace("/", ".") for name in files}
    assert packages == expected


def test_the_wheel_holds_the_package_configs_and_data_sets_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        about = archive.read(metadata).decode()
    assert f"\nVersion: {nonlocal_jax.__version__}\n" in about
    held = {name for name in names if ".dist-info/" not in name}
    python = set().union(*map(python_files, ("nonlocal_jax", "configs", "data")))
    others = {f"nonlocal_jax/data/{name}/README.md" for name in ("ade20k", "camvid", "cityscapes")}
    others |= {f"nonlocal_jax/data/{name}README.md" for name in ("voc12aug/", "kinetics/", "")}
    others |= {"nonlocal_jax/py.typed", "nonlocal_jax/serving/page.html"}
    web = REPOSITORY / "nonlocal_jax" / "exporting" / "page" / "web"
    others |= {f"nonlocal_jax/exporting/page/web/{path.name}" for path in web.iterdir()}
    names_of_kinetics = {"nonlocal_jax/inputs/datasets/kinetics400.txt"}
    assert held >= python | others | names_of_kinetics
    assert all(name.startswith("nonlocal_jax/") for name in held)
    assert {name for name in held if not name.endswith((".py", ".txt"))} == others


UNPACKED = """
import os
import pathlib
import sys
import nonlocal_jax
from nonlocal_jax.__main__ import main
from nonlocal_jax.config import files
assert pathlib.Path(nonlocal_jax.__file__).is_relative_to(sys.argv[1]), nonlocal_jax.__file__
assert pathlib.Path(files.find("demo")).is_relative_to(sys.argv[1])
assert len(files.names()) >= 18
print("train", main(["train", "--config=ade20k_r50_80k"]), flush=True)
print("prepare", main(["prepare", "ade20k"]), flush=True)
assert os.listdir() == [], os.listdir()
"""


def test_from_an_empty_folder_with_no_repository_in_sight(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    done = subprocess.run(
        [sys.executable, "-c", UNPACKED, str(installed)],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["train", "2", "prepare", "2"]
    assert "prepare ade20k" in done.stderr and "resnet50_v1c" in done.stderr
    assert "Traceback" not in done.stderr and str(REPOSITORY) not in done.stderr


def pythons():
    """This Python, and those that $NONLOCAL_JAX_PYTHONS names, separated by colons."""
    others = os.environ.get("NONLOCAL_JAX_PYTHONS", "")
    return [sys.executable, *filter(None, others.split(":"))]


@pytest.mark.package
@pytest.mark.parametrize("python", pythons())
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_installed_by_pip(python, editable, wheel, tmp_path):
    environment = tmp_path / "venv"
    if python == sys.executable:
        venv.create(environment, with_pip=True)
    else:
        subprocess.run([python, "-m", "venv", str(environment)], check=True)
    what = ["--editable", str(REPOSITORY)] if editable else [str(wheel)]
    constraints = str(REPOSITORY / "constraints.txt")
    pip = [environment / "bin" / "pip", "install", "--quiet", "--constraint", constraints, *what]
    subprocess.run(pip, check=True)
    check_installed(environment, tmp_path / "empty")


@pytest.mark.package
def test_installed_with_the_oldest_libraries_that_are_allowed(wheel, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin" / "pip", "install", "--quiet", "uv"], check=True)
    uv = [environment / "bin" / "uv", "pip", "install", "--quiet"]
    python = ["--python", str(environment / "bin" / "python")]
    subprocess.run([*uv, *python, "--resolution=lowest-direct", str(wheel)], check=True)
    check_installed(environment, tmp_path / "empty")


def check_installed(environment, empty):
    """Uses the commands of an environment in an empty folder."""
    empty.mkdir()

    def run(*words):
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
        done = subprocess.run(
            [environment / "bin" / "nonlocal-jax", *words],
            cwd=empty,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    assert run()[0] == 0
    assert run("demo", "--config.total_steps=3")[0] == 0
    assert (empty / "runs" / "demo" / "scene_0.png").is_file()
    code, _, told = run("train", "--config=ade20k_r50_80k")
    assert code == 2 and "prepare ade20k" in told
    code, _, told = run("prepare", "camvid")
    assert code == 2 and "camvid" in told

    image = np.random.default_rng(0).integers(0, 255, (64, 512, 3), np.uint8)
    cv2.imwrite(str(empty / "image.png"), image)
    code, said, told = run("predict", "--checkpoint=runs/demo/nonlocal", "--input=image.png")
    assert code == 0, told
    masks = [pathlib.Path(path) for path in empty.rglob("masks/image.png")]
    assert len(masks) == 1, said
    assert cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED).shape[:2] == (64, 512)
