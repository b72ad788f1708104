"""PyTorch files written by hand, instruction by instruction."""

import pickle
import struct
import zipfile

import pytest
from networks import GOLDEN  # noqa: F401

from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.errors import UserError

FORMS = ("legacy", "zip")
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key="0", size=4, kind="FloatStorage"):
    return (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
        + number(size) + b"tQ"
    )  # fmt: skip


def tensor(shape=(2, 2), strides=(2, 1), offset=0, **kwargs):
    return (
        TENSOR + b"(" + storage(**kwargs) + number(offset) + numbers(shape) + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def write_zip(path, body, records=None, compression=zipfile.ZIP_STORED):
    records = {"data/0": bytes(16)} if records is None else records
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    return path


def write_legacy(path, body, storages=b"]."):
    machine = {"little_endian": True}
    heads = [pickle.dumps(h, 2) for h in (torch_file.MAGIC_NUMBER, 1001, machine)]
    path.write_bytes(b"".join(heads) + b"\x80\x02" + body + b"." + b"\x80\x02" + storages)
    return path


def refused(path, because):
    """Asserts that reading a file is refused in one sentence."""
    with pytest.raises(UserError, match=because) as caught:
        torch_file.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message
