"""Reads and writes the Caffe2 checkpoints of the video models, without running code.

A file is a pickle of Python 2: {"blobs": {name: array, ...}} in protocol 2, or the inner dict alone
in protocol 0, as converted files are. Beside the arrays there are two numbers: `model_iter`, the
finished iterations, and `lr`, the learning rate.
"""

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nonlocal_jax.checkpoints.caffe2.rules import MOMENTUM
from nonlocal_jax.checkpoints.pytorch import pickle_data
from nonlocal_jax.checkpoints.pytorch.pickle_names import (
    FormatError,
    NumpyArray,
    Unknown,
    printable,
    to_numpy,
)
from nonlocal_jax.checkpoints.pytorch.torch_file import check_file
from nonlocal_jax.errors import UserError

Blob = np.ndarray | int | float
Blobs = Mapping[str, Blob]

ITERATIONS, LEARNING_RATE = "model_iter", "lr"
# An array as Python 2 pickles it: an empty one, whose state follows.
_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR("
_FLOAT32 = (
    b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def read(path: str | os.PathLike[str]) -> dict[str, Blob]:
    """Arrays and numbers by name; arrays are read-only.

    Raises:
      UserError: the file is missing, truncated, damaged, no checkpoint, absurdly large, or holds
        anything but arrays of numbers, and numbers.
    """
    path = Path(path)
    check_file(path)
    try:
        stream = io.BytesIO(path.read_bytes())
        value = pickle_data.load(stream).value
        if stream.read(1):
            raise FormatError("its pickle goes on after its end")
        return _blobs(value)
    except FormatError as error:
        raise UserError(f"{path} cannot be read as a Caffe2 checkpoint: {error}.") from error
    except (OSError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def write(path: str | os.PathLike[str], blobs: Blobs) -> None:
    """Writes a file that the original loads: protocol 2, {"blobs": ...}, float32 arrays.

    Raises:
      UserError: an array is not of float32, or the file cannot be written.
    """
    parts = [b"\x80\x02}", _bytes("blobs"), b"}("]
    for name, value in blobs.items():
        # As in the original's files, these names are unicode and all others are bytes.
        unicode = name.endswith(MOMENTUM) or name in (ITERATIONS, LEARNING_RATE)
        parts += [_text(name) if unicode else _bytes(name), *_value(name, value)]
    parts.append(b"us.")
    try:
        with Path(path).open("wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error


def _blobs(value: object) -> dict[str, Blob]:
    _refuse_unknown(value)
    if isinstance(value, dict) and list(value) == ["blobs"]:
        value = value["blobs"]
        _refuse_unknown(value)
    if not isinstance(value, dict) or not value:
        raise FormatError("it holds no blobs: it is a pickle, but no checkpoint of a model")
    return {_name(key): _blob(key, item) for key, item in value.items()}


def _refuse_unknown(value: object) -> None:
    if isinstance(value, Unknown):
        raise FormatError(value.reason)


def _name(key: object) -> str:
    _refuse_unknown(key)
    if not isinstance(key, str):
        raise FormatError(f"the name {printable(repr(key))} of a blob is not text")
    return key


def _blob(key: object, item: object) -> Blob:
    _refuse_unknown(item)
    if isinstance(item, NumpyArray):
        return to_numpy(item)
    if isinstance(item, int | float) and not isinstance(item, bool):
        return item
    raise FormatError(f"its blob {printable(str(key))} is neither an array nor a number")


def _value(name: str, value: Blob) -> tuple[bytes, ...]:
    if isinstance(value, int):
        return (_integer(value),)
    if isinstance(value, float):
        return (b"G" + struct.pack(">d", value),)
    if value.dtype != np.float32:
        raise UserError(f"The blob {name} is of {value.dtype}; Caffe2's files hold float32.")
    data = np.ascontiguousarray(value, "<f4").tobytes()
    shape = b"(" + b"".join(map(_integer, value.shape)) + b"t"
    state = b"K\x01" + shape + _FLOAT32 + b"\x89T" + struct.pack("<i", len(data))
    return _ARRAY, state, data, b"tb"


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _bytes(name: str) -> bytes:
    data = name.encode("latin1")
    return b"U" + struct.pack("<B", len(data)) + data


def _text(name: str) -> bytes:
    data = name.encode()
    return b"X" + struct.pack("<I", len(data)) + data
