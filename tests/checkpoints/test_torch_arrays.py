"""NumPy arrays in PyTorch files, as a PALETTE is: data like any other."""

import pickle

import numpy as np
import pytest
from torch_files import refused, write_legacy, write_zip

from nonlocal_jax.checkpoints.pytorch import torch_file

ARRAYS = {
    "palette": np.random.default_rng(0).integers(0, 256, (150, 3), np.uint8),
    "wide": np.random.default_rng(1).integers(0, 256, (150, 3)),  # longer than texts are copied
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3), np.int64),
    "single": np.array(2.5),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_numpy_arrays_are_data(tmp_path, name, module):
    body = pickle.dumps({"meta": ARRAYS[name]}, 2)[2:-1]
    body = body.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", module)
    for write in (write_zip, write_legacy):
        path = write(tmp_path / "x.pth", body)
        assert torch_file.read(path) == {"meta": ARRAYS[name].tolist()}


def test_numpy_arrays_of_objects_or_of_a_wrong_size_are_refused(tmp_path):
    objects = pickle.dumps(np.array([{}], object), 2)[2:-1]
    refused(write_zip(tmp_path / "x.pth", objects), "NumPy value that is not a plain number")
    body = pickle.dumps(np.arange(3, dtype=np.int8), 2)[2:-1]
    longer = body.replace(b"K\x03\x85", b"K\x04\x85")
    assert longer != body
    refused(write_zip(tmp_path / "y.pth", longer), "wrong size")


@pytest.mark.parametrize("protocol", [2, 4])
def test_texts_in_numpy_arrays_are_data(tmp_path, protocol):
    values = {
        "little": np.array(["road", "tr\u00e4\U0001f600", ""]),
        "big endian": np.array([["a"], ["bc"]], ">U2"),
        "one": np.str_("sky"),
        "long": np.array(["x" * 5000]),
    }
    body = pickle.dumps(values, protocol)[2:-1]
    read = torch_file.read(write_zip(tmp_path / "x.pth", body))
    assert read == {name: value.tolist() for name, value in values.items()}


@pytest.mark.parametrize("value", [np.array(["abc"]), np.array(["abc"], ">U3"), np.str_("abc")])
def test_impossible_letters_in_numpy_texts_are_refused(tmp_path, value):
    body = pickle.dumps([value], 4)[2:-1]
    damaged = body.replace(b"a\0\0\0b\0", b"a\x7f\x7f\x7fb\0").replace(
        b"\0\0\0a\0\0", b"\x7f\x7f\x7fa\0\0"
    )
    assert damaged != body
    refused(write_zip(tmp_path / "x.pth", damaged), "impossible letters")
