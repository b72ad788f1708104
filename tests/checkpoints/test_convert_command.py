"""`python -m nonlocal_jax.convert`: what it writes, and what it refuses in one message."""

import os
import pickle
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import REPOSITORY
from conversions import GOLDEN, TINY, tiny_config

from nonlocal_jax.checkpoints import locate, model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import convert, torch_file
from nonlocal_jax.config import files
from nonlocal_jax.convert import run as run_here
from nonlocal_jax.errors import UserError


@pytest.fixture(scope="module")
def target():
    return convert.config_target(tiny_config(), "row")


@pytest.fixture
def tree():
    return torch_file.read(GOLDEN / "convert_legacy.pth")


def run(*arguments, cache):
    """Runs the command as its user types it."""
    overrides = [f"--config.{key}={value}" for key, value in TINY.items()]
    if not any(argument.startswith("--config=") for argument in arguments):
        overrides = []
    return subprocess.run(
        [sys.executable, "-m", "nonlocal_jax.convert", *map(str, arguments), *overrides],
        cwd=REPOSITORY,
        env=os.environ | {"XDG_CACHE_HOME": f"{cache}_cache", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


ROW = "--config=configs/cityscapes_r50_512x1024_40k.py"


def test_import_and_export_from_end_to_end(tmp_path, tree):
    imported, exported = tmp_path / "imported", tmp_path / "out" / "x.pth"
    done = run(ROW, f"--input={GOLDEN}/convert_legacy.pth", f"--output={imported}", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"total +310 +38,124", done.stdout) and "Names of 3 classes" in done.stdout
    assert "Kept aside: 60 counters" in done.stdout
    assert torch_file.sha256(GOLDEN / "convert_legacy.pth") in done.stdout
    variables, metadata = model.load_model(imported)
    assert metadata.kind == "segmentor" and metadata.config == tiny_config()
    assert metadata.network == "cityscapes_r50_512x1024_40k"
    np.testing.assert_array_equal(
        variables["decode_head/classifier/bias"], tree["state_dict"]["decode_head.conv_seg.bias"]
    )
    done = run(f"--input={imported}", f"--output={exported}", "--export", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    read = torch_file.read(exported)
    assert read["meta"] == tree["meta"]
    for key, value in tree["state_dict"].items():
        np.testing.assert_array_equal(read["state_dict"][key], value, strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["imported", "out"]
    assert [p.name for p in exported.parent.iterdir()] == ["x.pth"]


def attack(path, tree):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.")


def truncate(path, tree):
    path.write_bytes((GOLDEN / "convert_legacy.pth").read_bytes()[:-100])


def poison(path, tree):
    tree["state_dict"]["decode_head.conv_seg.bias"] = np.array([0, np.nan, 1], np.float32)
    torch_file.write(path, tree)


def enlarge(path, tree):
    tree["state_dict"]["decode_head.conv_seg.bias"] = np.array([0, 1e300, 1])
    torch_file.write(path, tree)


def write_text(path, tree):
    path.write_text("not a checkpoint")


BAD_FILES = {
    "x.pth": (attack, "names os.system"),
    "t.pth": (truncate, "cut off"),
    "x-0123abcd.pth": (write_text, "SHA-256 begins with"),
    "nan.pth": (poison, "NaN or infinite values in 1 variables"),
    "large.pth": (enlarge, "in 1 variables.*beyond the range of float32"),
    "text.pth": (write_text, "cannot be read as a PyTorch checkpoint"),
    "missing.pth": (lambda path, tree: None, "does not exist"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_refusals_end_in_one_message_and_no_output(tmp_path, tree, target, name):
    make, because = BAD_FILES[name]
    make(tmp_path / name, tree)
    output = tmp_path / "out"
    with pytest.raises(UserError, match=because) as caught:
        convert.import_(target, str(tmp_path / name), output)
    assert str(tmp_path / name) in str(caught.value)
    assert set(tmp_path.iterdir()) <= {tmp_path / name}


def test_allow_nan(tmp_path, tree, target, capsys):
    poison(tmp_path / "nan.pth", tree)
    convert.import_(target, str(tmp_path / "nan.pth"), tmp_path / "out", allow_nan=True)
    assert "decode_head/classifier/bias" in capsys.readouterr().err
    bias = model.load_model(tmp_path / "out")[0]["decode_head/classifier/bias"]
    assert np.isnan(bias).tolist() == [False, True, False]


def test_what_was_taken_off_and_left_out_is_told(tmp_path, tree, target, capsys):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    state = {f"_orig_mod.{key}": value for key, value in tree["state_dict"].items()}
    path = tmp_path / "x.pth"
    torch_file.write(path, {"model": {"state_dict": state}, "meta": "HERE"})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    written = b"X\x04\0\0\0HERE"
    meta = pickle.dumps({"CLASSES": np.array(["road", "tree", "sky"]), "x": Attack()}, 2)[2:-1]
    assert entries["archive/data.pkl"].count(written) == 1
    # At the end of the file: what is memoized under the same numbers is not used afterwards.
    entries["archive/data.pkl"] = entries["archive/data.pkl"].replace(written, meta)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    convert.import_(target, str(path), tmp_path / "out")
    out = capsys.readouterr().out
    assert "Read from model.state_dict in the file.\n" in out
    assert "Taken off the beginning of all keys: _orig_mod.\n" in out
    assert "Neither read nor run, for no weight needs it: meta.x (posix.system).\n" in out
    assert model.load_model(tmp_path / "out")[1].meta["CLASSES"] == ["road", "tree", "sky"]
    assert not (tmp_path / "ran").exists()


def test_a_float64_checkpoint_beyond_float32_is_not_exported(tmp_path, tree, target):
    enlarge(tmp_path / "large.pth", tree)
    convert.import_(target, str(tmp_path / "large.pth"), tmp_path / "saved", allow_nan=True)
    with pytest.raises(UserError, match=r"NaN or infinite"):
        convert.export(locate.find(tmp_path / "saved"), target.config, tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        ([ROW, f"--input={GOLDEN}/convert_legacy.pth"], "--output is missing"),
        ([ROW, "--output=tests"], "tests exists already"),
        (["--backbone=resnet51_v1c", "--output={new}"], "is not known"),
        (["--backbone=resnet50_v1c", "--output={new}", "--export"], "instead of --backbone"),
        (["--output={new}"], "--config is missing"),
        (
            [
                ROW,
                "--config.model.backbone.depth=101",
                f"--input={GOLDEN}/convert_legacy.pth",
                "--output={new}",
            ],
            "the file's backbone is R-50 (V1c), the config's is R-101 (V1c)",
        ),
    ],
)
def test_mistakes_in_the_command_exit_with_2(tmp_path, arguments, because):
    done = run(*(a.replace("{new}", str(tmp_path / "new")) for a in arguments), cache=tmp_path)
    assert done.returncode == 2
    assert because in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_export_needs_a_checkpoint(tmp_path, capsys):
    for source, because in (("", "--input is missing"), (str(tmp_path / "none"), "no checkpoint")):
        words = ["--export", f"--input={source}", f"--output={tmp_path}/x.pth"]
        assert run_here(words) == 2 and because in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finite_is_exported_on_demand_alone(tmp_path, tree, target):
    poison(tmp_path / "nan.pth", tree)
    convert.import_(target, str(tmp_path / "nan.pth"), tmp_path / "saved", allow_nan=True)
    found, output = locate.find(tmp_path / "saved"), tmp_path / "x.pth"
    with pytest.raises(UserError, match=r"NaN or infinite.*\n  decode_head/classifier/bias"):
        convert.export(found, target.config, output)
    assert not output.exists()
    convert.export(found, target.config, output, allow_nan=True)
    assert output.exists()


def test_what_shapes_do_not_say_is_compared_in_an_export(tmp_path, target):
    convert.import_(target, str(GOLDEN / "convert_zip.pth"), tmp_path / "saved")
    found, output = locate.find(tmp_path / "saved"), tmp_path / "x.pth"
    other = files.override(target.config, **{"model.backbone.variant": "v1d"})
    with pytest.raises(UserError, match=r"variant was v1c, is v1d"):
        convert.export(found, other, output)
    assert not output.exists()
    convert.export(found, other, output, departing=["model.backbone.variant"])


def test_a_backbone_is_no_whole_network(tmp_path, capsys):
    variables = {"backbone/stem/0/conv/kernel": np.zeros((1, 1, 1, 1), np.float32)}
    metadata = Metadata(kind="backbone", network="resnet50_v1c")
    model.save_model(tmp_path / "backbone", variables, metadata)
    words = ["--export", f"--input={tmp_path}/backbone", f"--output={tmp_path}/x.pth"]
    assert run_here(words) == 2
    assert "is a backbone (resnet50_v1c), not a whole network" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(tmp_path, target, monkeypatch):
    monkeypatch.setattr(model, "load_model", lambda path: ({}, None))
    with pytest.raises(UserError, match="changed when it was read back"):
        convert.import_(target, str(GOLDEN / "convert_legacy.pth"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
