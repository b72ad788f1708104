"""The reader takes what PyTorch writes, and refuses everything else without running any of it."""

import argparse
import datetime
import os
import pathlib
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from torch_files import (
    FORMS,
    GOLDEN,
    TENSOR,
    number,
    refused,
    storage,
    tensor,
    text,
    write_legacy,
    write_zip,
)

from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.checkpoints.pytorch.pickle_names import DTYPES, Unknown
from nonlocal_jax.errors import UserError


@pytest.mark.parametrize("form", FORMS)
def test_reads_every_type_that_pytorch_writes(form):
    value = torch_file.read(GOLDEN / f"convert_kinds_{form}.pth")
    base = np.arange(24, dtype=np.float32)
    tensors = value["tensors"]
    for name in set(DTYPES) - {"bfloat16"}:
        assert tensors[name].dtype == np.dtype(name)
        np.testing.assert_array_equal(tensors[name], (base % 2).astype(name))
    assert tensors["bfloat16"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensors["bfloat16"].astype(np.float32), base % 2)
    assert tensors["scalar"].shape == () and tensors["scalar"] == 3
    assert tensors["empty"].shape == (0, 4)
    np.testing.assert_array_equal(tensors["transposed"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(tensors["sliced"], base[5:17:3])
    np.testing.assert_array_equal(tensors["parameter"], base[:2])
    assert value["plain"] == {
        "none": None,
        "truths": [True, False],
        "numbers": (1, -(2**40), 255, 65535, 1.5),
        "text": "ä\u2028\U0001f600",
        "nested": [{"a": ((),)}, {"b": []}],
        "size": (2, 3),
        "numpy": (0.25, -3, True),
    }


def test_both_forms_of_one_network_are_equal():
    legacy, zipped = (torch_file.read(GOLDEN / f"convert_{form}.pth") for form in FORMS)
    assert legacy["meta"] == zipped["meta"]
    assert legacy["meta"]["CLASSES"] == ("road", "tree", "sky")
    assert legacy["meta"]["hook_msgs"] == {"best_score": 0.5, "last": 7}
    assert list(legacy["state_dict"]) == list(zipped["state_dict"])
    for key, value in legacy["state_dict"].items():
        np.testing.assert_array_equal(value, zipped["state_dict"][key], strict=True)


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_back_what_it_writes(tmp_path, legacy):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=(3, 2)).astype(name)
        for name in ("float32", "float64", "float16", "int64", "uint8", "bool", ml_dtypes.bfloat16)
    }
    value = {
        "state_dict": OrderedDict((str(k), v) for k, v in arrays.items()),
        "scalar": np.array(5, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "strided": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2],
        "big endian": np.arange(3, dtype=">f4"),
        "plain": (None, True, -(2**40), 2**63, 1e-300, float("inf"), "ä", [], {}, ()),
    }
    torch_file.write(tmp_path / "x.pth", value, legacy=legacy)
    read = torch_file.read(tmp_path / "x.pth")
    assert read["plain"] == value["plain"]
    for key in ("scalar", "empty", "strided"):
        np.testing.assert_array_equal(read[key], value[key], strict=True)
    np.testing.assert_array_equal(read["big endian"], [0, 1, 2])
    for key, array in value["state_dict"].items():
        np.testing.assert_array_equal(read["state_dict"][key], array, strict=True)


def test_write_refuses_what_pytorch_has_not(tmp_path):
    for value in (object(), {1, 2}, np.array(["text"]), np.zeros(2, np.uint16)):
        with pytest.raises(UserError):
            torch_file.write(tmp_path / "x.pth", {"value": value})


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_pickle_cannot_run_anything(tmp_path, write):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    for protocol in (0, 1, 2, 3, 4, 5):
        body = pickle.dumps({"state_dict": Attack()}, protocol)[:-1]
        path = write(tmp_path / f"{protocol}.pth", body.removeprefix(bytes([0x80, protocol])))
        found = torch_file.read(path)["state_dict"]
        assert isinstance(found, Unknown) and "names posix.system, which" in found.reason
        body = pickle.dumps(Attack(), protocol)[:-1].removeprefix(bytes([0x80, protocol]))
        refused(write(path, body), "names posix.system, which")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (b"cos\nsystem\n", "names os.system, which"),
        (b"cbuiltins\neval\n" + text("1") + b"\x85R", "names builtins.eval"),
        (text("os") + text("system") + b"\x93", "names os.system"),
        (b"c__builtin__\n\x1b[2Jx\n", r"names __builtin__.\\x1b\[2Jx"),
        (b"ctorch._utils\n__builtins__\n", "names torch._utils.__builtins__"),
        (b"ctorch\nload\n", "names torch.load"),
        (b"(Nios\nsystem\n", "instruction INST"),
        (b"(cos\nsystem\no", "names os.system"),
        (b"ccollections\nOrderedDict\n)\x81", "instruction NEWOBJ"),
        (b"\x82\x01", "instruction EXT1"),
        (b"Pos.system\n", "instruction PERSID"),
        (b"ccollections\nOrderedDict\n", "a bare name"),
        (b"ccollections\nOrderedDict\n(" + number(1) + b"tR", "calls OrderedDict"),
        (b"ctorch\nFloatStorage\n(" + number(1) + b"tR", "calls FloatStorage"),
        (TENSOR + b")R", "calls _rebuild_tensor_v2"),
        (b"}" + text("__class__") + b"}b", "sets attributes"),
        (b"]" + text("append") + b"}b", "sets attributes"),
        (text("x") + b")R", "no function"),
        (b"(t(tQ", "left over|no description"),
        (b"(" + text("module") + b"NNNtQ", "pickled model"),
        (b"(" + text("file") + b"NNNNtQ", "form that is not known"),
        (storage(kind="FloatStorage"), "a bare storage"),
        (storage(size=-1), "not a sensible number"),
        (storage(size=2**70), "not a sensible number"),
    ],
)
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_refuses_instructions_that_data_does_not_need(tmp_path, write, body, because):
    path = write(tmp_path / "x.pth", body)
    if b"FloatStorage\n" in body and write is write_legacy and "bare" in because:
        because = "list of storages"
    refused(path, because)


@pytest.mark.parametrize(
    ("view", "because"),
    [
        ({"shape": (2, 3), "strides": (3, 1)}, "does not fit its storage"),
        ({"offset": 1}, "does not fit its storage"),
        ({"strides": (2, 2)}, "does not fit its storage"),
        ({"strides": (-1, 1)}, "not a sensible number"),
        ({"offset": -1}, "not a sensible number"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "does not fit its storage"),
        ({"shape": (2,), "strides": (2, 1)}, "disagree"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "short tuple"),
        ({"shape": (0, 2**47, 2**47), "strides": (1, 1, 1)}, "not possible"),
        ({"kind": "DoubleStorage"}, "declared size"),
        ({"key": "../../etc/passwd"}, "missing"),
        ({"size": 2**40}, "declared size"),
    ],
)
def test_refuses_tensors_outside_their_storage(tmp_path, view, because):
    torch_file.read(write_zip(tmp_path / "good.pth", tensor()))
    refused(write_zip(tmp_path / "x.pth", tensor(**view)), because)


def test_refuses_legacy_storages_that_are_not_declared(tmp_path):
    keys, content = b"](X\x01\x00\x00\x000e.", struct.pack("<q", 4) + bytes(16)
    good = torch_file.read(write_legacy(tmp_path / "good.pth", tensor(), keys + content))
    np.testing.assert_array_equal(good, np.zeros((2, 2), np.float32), strict=True)
    for storages, because in (
        (keys + struct.pack("<q", 5) + bytes(20), "declared size"),
        (keys + struct.pack("<q", -4) + bytes(16), "declared size"),
        (keys + content + b"x", "goes on for 1 bytes"),
        (keys + content[:-1], "last values are missing"),
        (keys.replace(b"0e", b"1e") + content, "list of storages"),
        (b"](" + (b"X\x01\x00\x00\x000") * 2 + b"e." + content * 2, "list of storages"),
        (b"}.", "list of storages"),
    ):
        refused(write_legacy(tmp_path / "x.pth", tensor(), storages), because)


def test_refuses_bombs(tmp_path):
    doubling = (
        b"]"
        + b"q\x00"
        + b"".join(
            b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60)
        )
    )
    # The last list stays alone on the stack: the others are its members, by the memo.
    refused(write_zip(tmp_path / "x.pth", b"(" + doubling + b"t"), "unfold|nested")
    keys = b")q\x00" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    refused(write_zip(tmp_path / "x.pth", b"}(" + keys + b"Nu"), "dict key|no dict")
    refused(write_zip(tmp_path / "x.pth", b"]" * 100_000 + b"a" * 99_999), "nested")
    refused(write_zip(tmp_path / "x.pth", b"]q\x00h\x00a"), "nested")
    refused(write_zip(tmp_path / "x.pth", b"]" * 2_000_001), "instructions")
    refused(
        write_zip(tmp_path / "x.pth", b"\x8b" + struct.pack("<i", 99) + bytes(98) + b"\x01"), "128"
    )
    refused(write_zip(tmp_path / "x.pth", b"X\xff\xff\xff\xffa"), "cut off")
    refused(write_zip(tmp_path / "x.pth", b"\x8e" + b"\xff" * 8), "cut off")


def test_refuses_zip_bombs(tmp_path):
    path = tmp_path / "x.pth"
    refused(write_zip(path, tensor(), {"data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED), "compressed")
    write_zip(path, tensor())
    data = path.read_bytes()
    huge = data.replace(struct.pack("<II", 16, 16), struct.pack("<II", 2**31, 2**31))
    path.write_bytes(huge)
    refused(path, "more data than the file has")
    path.write_bytes(data.replace(struct.pack("<II", 16, 16), struct.pack("<II", 16, 64)))
    refused(path, "two sizes")


def test_refuses_archives_that_contradict_themselves(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("archive/data.pkl", b"\x80\x02N.")
    refused(path, "same name")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
        archive.writestr("b/data.pkl", b"\x80\x02N.")
    refused(path, "no data.pkl")
    refused(write_zip(path, b"N.N"), "goes on after its end")
    refused(write_zip(path, b"N", {"byteorder": b"big"}), "big-endian")
    refused(write_zip(path, tensor(), {}), "storage is missing")
    write_zip(path, tensor(), {"data/0": b"abcdefghijklmnop"})
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgX"))
    refused(path, "CRC")


def test_refuses_what_is_no_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    refused(path, "does not exist")
    refused(tmp_path, "is not a file")
    path.write_bytes(b"")
    refused(path, "is empty")
    for content in (
        b"hello\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04",
        b"\x80\x02N.",
        b".",
    ):
        path.write_bytes(content)
        refused(path, "cannot be read as a PyTorch checkpoint")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", b"<xml/>")
    refused(path, "no data.pkl")
    monkeypatch.setattr(torch_file, "MAX_FILE_BYTES", 10)
    refused(path, "more than any checkpoint")


@pytest.mark.parametrize("form", FORMS)
def test_refuses_a_file_cut_off_at_many_lengths(tmp_path, form):
    data = (GOLDEN / f"convert_kinds_{form}.pth").read_bytes()
    path = tmp_path / "x.pth"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        refused(path, "cut off|empty|damaged|storage")


def test_reading_imports_and_executes_nothing(tmp_path):
    """Python's own audit events: no import, no compile, no process while a file is read."""
    events = []
    watched = ("import", "compile", "exec", "os.system", "subprocess.Popen", "pickle.find_class")
    active = [False]
    sys.addaudithook(
        lambda event, _: events.append(event) if active[0] and event in watched else None
    )
    path = write_zip(tmp_path / "x.pth", b"cantigravity\nfly\n")
    active[0] = True
    try:
        torch_file.read(GOLDEN / "convert_legacy.pth")
        with pytest.raises(UserError):
            torch_file.read(path)
    finally:
        active[0] = False
    assert events == [] and "antigravity" not in sys.modules


# --- What is no plain data, and views with another sign -------------------------------------------


class Own:
    """A class of the program that wrote a file."""

    def __init__(self):
        self.value = 1


class OwnDict(dict):
    """A dict of the program that wrote a file."""


OTHERS = {
    "time": (datetime.datetime(2020, 1, 2), "datetime.datetime"),
    "path": (pathlib.PurePosixPath("a/b"), "pathlib"),
    "namespace": (argparse.Namespace(a=1), "argparse.Namespace"),
    "set": ({1, 2}, "set"),
    "frozen": (frozenset("a"), "set"),
    "own": (Own(), "Own"),
    "own dict": (OwnDict(a=[1]), "OwnDict"),
    "class": (OrderedDict, "name"),
    "objects": (np.array([{}], object), "O8"),
    "date": (np.datetime64("2020-01-02"), "M8"),
    "complex": (1j, "complex"),
    "bytes": (b"\xff" * 2000, "bytes"),
    "type": (np.dtype("f4"), "numpytype"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_plain_data_is_unknown_in_its_place(tmp_path, name, protocol):
    value, what = OTHERS[name]
    body = pickle.dumps({"before": 1, "x": [value], "after": 2}, protocol)[2:-1]
    read = torch_file.read(write_zip(tmp_path / "x.pth", body))
    (found,) = read.pop("x")
    assert read == {"before": 1, "after": 2}
    if name != "bytes" or protocol == 2:
        assert isinstance(found, Unknown) and what in found.what


@pytest.mark.parametrize("name", ["torch float32", "torch device"])
def test_types_and_devices_of_pytorch_are_unknown(tmp_path, name):
    body = b"c" + name.replace(" ", "\n").encode() + b"\n"
    body += (text("cpu") + b"\x85R") * (name == "torch device")
    read = torch_file.read(write_zip(tmp_path / "x.pth", b"]" + body + b"a"))
    assert [value.what for value in read] == [name.replace(" ", ".")]


def test_a_storage_of_an_unknown_type_is_unknown(tmp_path):
    body = b"]" + tensor(kind="QInt8Storage") + b"a"
    (found,) = torch_file.read(write_zip(tmp_path / "x.pth", body))
    assert found.what == "torch.QInt8Storage"


def test_a_dict_with_other_keys_is_read(tmp_path):
    body = pickle.dumps({"x": {(1, 2): 3, "a": 4}}, 2)[2:-1]
    read = torch_file.read(write_zip(tmp_path / "x.pth", body))["x"]
    assert read.pop("a") == 4 and [key.what for key in read] == ["a dict's key"]


def test_many_references_to_one_array_are_no_bomb(tmp_path):
    array = pickle.dumps(np.zeros(100_000, np.int8), 2)[2:-1]
    body = b"](" + array + b"q\xff" + b"h\xff" * 5000 + b"e"
    refused(write_zip(tmp_path / "x.pth", body), "unfold")


@pytest.mark.parametrize("flag", ["neg", "conj"])
def test_views_of_another_sign_are_refused(tmp_path, flag):
    view = tensor().removesuffix(b"tR") + b"}" + text(flag) + b"\x88stR"
    refused(write_zip(tmp_path / "x.pth", view), "negated or conjugated")
    plain = tensor().removesuffix(b"tR") + b"}tR"
    assert torch_file.read(write_zip(tmp_path / "y.pth", plain)).shape == (2, 2)


def test_a_zip_with_very_many_entries_is_refused_at_once(tmp_path):
    path = write_zip(tmp_path / "x.pth", tensor())
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, len(content) - 22 + 12, 100 * 2**20)
    path.write_bytes(content)
    refused(path, "lists more contents")
