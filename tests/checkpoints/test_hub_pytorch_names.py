"""Hub folders whose arrays have the reference's names."""

import json

import pytest
from conversions import GOLDEN, reference_networks, tiny_config
from evaluations import run_command
from hub_folders import (
    assert_same_arrays,
)

from nonlocal_jax import convert as convert_command
from nonlocal_jax import export
from nonlocal_jax.checkpoints.hub import files
from nonlocal_jax.checkpoints.model import load_model
from nonlocal_jax.checkpoints.pytorch import convert, torch_file


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """An import of the reference's file, and that file's tensors."""
    folder = tmp_path_factory.mktemp("imported") / "tiny"
    source = str(GOLDEN / "convert_zip.pth")
    convert.import_(convert.config_target(tiny_config(), "row"), source, folder)
    return folder, torch_file.read(GOLDEN / "convert_zip.pth")["state_dict"]


def test_with_pytorchs_names_the_file_is_the_references_state_dict(imported, tmp_path):
    """By a reader of its own: the format is a header of JSON, then the bytes."""
    checkpoint, state = imported
    command = [f"--checkpoint={checkpoint}", "--to=safetensors", "--keys=pytorch"]
    done = run_command(export, *command, f"--output={tmp_path}/net")
    assert done.returncode == 0, done.stderr
    assert "read back: every value is the checkpoint's" in done.stdout
    content = (tmp_path / "net" / files.WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header.keys() == state.keys()
    for key, value in state.items():
        begin, end = header[key]["data_offsets"]
        assert tuple(header[key]["shape"]) == value.shape
        assert header[key]["dtype"] == {"float32": "F32", "int64": "I64"}[value.dtype.name]
        assert content[8 + size + begin : 8 + size + end] == value.tobytes()
    assert header.keys() == reference_networks()["nonlocal_r50-d8_512x1024_40k_cityscapes"].keys()


def test_with_pytorchs_names_everything_comes_back(imported, tmp_path):
    checkpoint, state = imported
    folder = tmp_path / "net"
    export.run([f"--checkpoint={checkpoint}", "--to=safetensors", "--keys=pytorch",
                f"--output={folder}"])  # fmt: skip
    before, after = load_model(checkpoint), load_model(folder)
    assert_same_arrays(after[0], before[0])
    assert after[1].counters == before[1].counters and after[1].source == before[1].source
    words = ["--export", f"--input={folder}", f"--output={tmp_path}/x.pth"]
    assert run_command(convert_command, *words).returncode == 0
    assert_same_arrays(torch_file.read(tmp_path / "x.pth")["state_dict"], state)
