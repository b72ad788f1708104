"""What version 0.1 (commit fab6df4) wrote is evaluated, gone on from, exported and used.

golden/run_of_0_1/make_run.py made the run, and what it came to when nobody stopped it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import REPOSITORY
from runs import log_lines
from saved import RUN_OF_0_1, unpack

import nonlocal_jax
from nonlocal_jax.checkpoints import folder, locate, model
from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.config import files, keys, schema, versions
from nonlocal_jax.convert import run as convert
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluate import run as evaluate
from nonlocal_jax.training import workdir

END = json.loads((RUN_OF_0_1 / "end.json").read_text())
GOLDEN = RUN_OF_0_1.parent
TINY = {
    "model.num_classes": 3,
    "model.backbone.stem_channels": 2,
    "model.backbone.base_channels": 2,
    "model.decode_head.channels": 8,
    "model.auxiliary_head.channels": 4,
}


@pytest.fixture
def old_run(tmp_path):
    return unpack("run", tmp_path)


@pytest.fixture
def imported(tmp_path):
    return unpack("imported", tmp_path)


def log(directory):
    """The log, without the IoU of classes, which the old version left out."""
    return [{k: v for k, v in line.items() if k != "iou"} for line in log_lines(directory)]


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, rel=1e-4), key


def test_a_run_goes_on_to_the_end_that_the_old_version_came_to(old_run):
    flags = "--xla_backend_optimization_level=0"  # compiled quickly, on one device
    done = subprocess.run(
        [sys.executable, "-m", "nonlocal_jax.main", f"--config={old_run}/config.json",
         f"--workdir={old_run}"],
        cwd=REPOSITORY,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Going on from step 4" in done.stdout
    for line, expected in zip(log(old_run), END["log"], strict=True):
        assert_close(line, expected)
    variables, metadata = model.load_model(old_run, "latest")
    assert metadata.step == 6 and metadata.config == files.load(old_run / "config.json")
    means = {name: float(abs(value).mean()) for name, value in variables.items()}
    assert_close(means, END["mean_magnitude"])
    digests = {name: hashlib.sha256(v.tobytes()).hexdigest() for name, v in variables.items()}
    same = sum(digests[name] == digest for name, digest in END["sha256"].items())
    print(f"{same} of {len(digests)} arrays have the bytes of the old version's end.")
    content = json.loads((old_run / "config.json").read_text())
    assert content["format"] == versions.FORMAT
    # The steps of both versions stand side by side, and the older one still counts.
    assert locate.find(old_run, 4).folder.is_dir() and locate.find(old_run, "best").step == 6


def test_a_run_is_evaluated_by_its_folder_alone(old_run, tmp_path):
    assert evaluate([f"--checkpoint={old_run}", "--config.eval.batch_size=8"]) == 0
    scores = json.loads((old_run / "evaluation" / "scores.json").read_text())
    old = next(line for line in END["log"] if line["step"] == 4 and "miou" in line)
    assert scores["miou"] == pytest.approx(old["miou"], abs=1e-6)


def test_a_run_predicts_by_its_folder_alone(old_run):
    predictor = nonlocal_jax.load(old_run)
    assert predictor.class_names == ("background", "stop", "wait", "go", "turn")
    image = np.random.default_rng(0).integers(0, 256, (16, 128, 3), np.uint8)
    mask = predictor.predict(image)
    assert mask.shape == (16, 128) and mask.max() < 5


def test_a_run_is_exported_by_its_folder_alone(old_run, tmp_path):
    assert convert(["--export", f"--input={old_run}", f"--output={tmp_path}/x.pth"]) == 0
    read = torch_file.read(tmp_path / "x.pth")
    assert read["meta"]["CLASSES"] == ("background", "stop", "wait", "go", "turn")
    variables, _ = model.load_model(old_run)
    np.testing.assert_array_equal(
        read["state_dict"]["decode_head.conv_seg.bias"], variables["decode_head/classifier/bias"]
    )


def test_an_import_has_the_installed_config_with_its_own_network(imported, tmp_path):
    _, metadata = model.load_model(imported)
    installed = files.load(metadata.network)
    assert metadata.config.data == installed.data and metadata.config.eval == installed.eval
    assert metadata.config.model.num_classes == 3
    assert metadata.class_names == ("road", "tree", "sky")
    assert convert(["--export", f"--input={imported}", f"--output={tmp_path}/x.pth"]) == 0
    read, first = (torch_file.read(f) for f in (tmp_path / "x.pth", GOLDEN / "convert_zip.pth"))
    assert read["meta"] == first["meta"] and read["state_dict"].keys() == first["state_dict"].keys()
    for key, value in first["state_dict"].items():
        np.testing.assert_array_equal(read["state_dict"][key], value, strict=True)


def test_an_import_predicts_without_a_config(imported):
    predictor = nonlocal_jax.load(imported, **{"eval.scale": (64, 32)})
    assert predictor.class_names == ("road", "tree", "sky")
    assert predictor.predict(np.zeros((32, 64, 3), np.uint8)).shape == (32, 64)


def rename_network(checkpoint, name):
    file = checkpoint / folder.METADATA
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "network": name}))
    digests = json.loads((checkpoint / "digests.json").read_text())
    digests[folder.METADATA] = hashlib.sha256(file.read_bytes()).hexdigest()
    (checkpoint / "digests.json").write_text(json.dumps(digests))


def test_an_import_of_an_unknown_config_asks_for_it(imported, tmp_path):
    rename_network(imported, "of_my_own")
    with pytest.raises(UserError, match=r"of_my_own, which is not installed.*--config=FILE"):
        nonlocal_jax.load(imported)
    config = files.load("cityscapes_r50_512x1024_40k", **TINY)
    assert nonlocal_jax.load(imported, config).class_names == ("road", "tree", "sky")
    wrong = files.override(config, **{"model.align_corners": True})
    with pytest.raises(UserError, match="align_corners was False, is True"):
        nonlocal_jax.load(imported, wrong)


# --- Keys that come and go ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Eval(schema.Eval):
    """With a key that a later version adds."""

    sharpness: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Model(schema.Model):
    """With a key that a later version adds."""

    activation: str = "relu"


@dataclass(frozen=True, kw_only=True)
class Later(schema.Config):
    """The config of a later version."""

    model: Model = field(default_factory=Model)
    eval: Eval = field(default_factory=Eval)


def test_a_key_that_is_new_takes_its_default_in_old_runs(old_run, monkeypatch):
    monkeypatch.setitem(keys.TASKS, "segmentation", Later)
    config = files.load(old_run / "config.json")
    assert config.model.activation == "relu"
    workdir.claim(old_run, config, {})
    newest = old_run / "checkpoints" / "4"
    workdir.check_checkpoint(newest, folder.read_metadata(newest), config)
    assert json.loads((old_run / "config.json").read_text())["config"]["eval"]["sharpness"] == 0.25
    other = files.override(config, **{"model.activation": "gelu"})
    with pytest.raises(UserError, match="activation was relu, is gelu"):
        workdir.claim(old_run, other, {})
    # And back: the version that lacks the key names it.
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"no key (model\.activation|eval\.sharpness)"):
        workdir.claim(old_run, files.load("demo"), {})


def test_a_newer_runs_folder_is_refused(old_run):
    tree = versions.with_format(files.to_tree(files.load("demo")))
    (old_run / "config.json").write_text(json.dumps({**tree, "format": 99}))
    with pytest.raises(UserError, match=r"config.json has format 99.*update nonlocal_jax"):
        workdir.claim(old_run, files.load("demo"), {})


def test_what_an_old_checkpoint_says_is_held_to(old_run):
    shutil.rmtree(old_run / "tensorboard", ignore_errors=True)
    (old_run / "config.json").unlink()
    config = files.override(
        folder.read_metadata(old_run / "checkpoints" / "4").config, **{"model.align_corners": True}
    )
    with pytest.raises(UserError, match=r"is of another network.*\n.*align_corners was False"):
        nonlocal_jax.load(old_run, config)
