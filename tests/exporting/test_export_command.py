"""The command `export`: what it writes and prints, and what it refuses."""

import importlib.util

import jax
import numpy as np
import pytest
from evaluations import SIZES, label, picture, run_command, saved, small, write_folder

import nonlocal_jax
from nonlocal_jax import export
from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.request import writer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint, beside its data set of two images."""
    root = tmp_path_factory.mktemp("export")
    write_folder(root / "data", {str(i): (picture(i), label(i)) for i in range(2)})
    return saved(small(root / "data"), root / "checkpoint")


def odd(size):
    return tuple(length - 1 + length % 2 for length in size)


def test_it_writes_a_file_and_tells_on_what_it_was_compared(checkpoint, tmp_path):
    output = tmp_path / "new" / "network.stablehlo"
    done = run_command(export, f"--checkpoint={checkpoint}", "--to=stablehlo", f"--output={output}")
    assert done.returncode == 0, done.stderr
    (height, width), (tall, wide) = odd(SIZES[0]), odd(SIZES[1])[::-1]
    assert f"Compared with JAX on images of {width}x{height}, {wide}x{tall}: " in done.stdout
    assert str(output) in done.stdout
    image = picture(0)
    masks = jax.export.deserialize(bytearray(output.read_bytes())).call(image[None])
    assert np.mean(masks[0] == nonlocal_jax.load(checkpoint).predict(image)) >= 0.9999


def test_what_exists_is_not_overwritten(checkpoint, tmp_path):
    (tmp_path / "there").write_text("precious")
    arguments = f"--checkpoint={checkpoint}", "--to=stablehlo", f"--output={tmp_path / 'there'}"
    done = run_command(export, *arguments)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "there").read_text() == "precious"


def test_an_image_that_cannot_be_read_is_told_first(checkpoint, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    arguments = f"--checkpoint={checkpoint}", "--to=stablehlo", f"--output={tmp_path / 'network'}"
    done = run_command(export, *arguments, f"--input={tmp_path / 'broken.png'}")
    assert done.returncode == 2
    assert "broken.png cannot be decoded" in done.stderr
    assert not (tmp_path / "network").exists()


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["--to=page", "--input=x", "--result=logits"], "--result is for exported functions"),
        (["--to=safetensors", "--result=logits"], "--result is for exported functions"),
        (["--to=safetensors", "--tta"], "--tta and --input are for exported functions"),
        (["--to=safetensors", "--input=x"], "--tta and --input are for exported functions"),
        (["--to=onnx", "--keys=pytorch"], "--keys is for --to=safetensors"),
    ],
)
def test_flags_of_other_formats_are_refused(words, because):
    done = run_command(export, "--checkpoint=x", "--output=y", *words)
    assert done.returncode == 2 and because in done.stderr


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [
        ("stablehlo", "flatbuffers", "export"),
        ("onnx", "onnx", "onnx"),
        ("onnx", "onnxruntime", "onnx"),
        ("savedmodel", "tensorflow", "savedmodel"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(form, package, extra, monkeypatch):
    find = importlib.util.find_spec
    installed = {"flatbuffers", "onnx", "onnxruntime", "tensorflow"} - {package}
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: object() if name in installed else None if name == package else find(name),
    )
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'nonlocal_jax\[{extra}\]'"):
        writer(form)
