"""Writes the pickles of PyTorch's files; names of PyTorch are written as text, never imported."""

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nonlocal_jax.checkpoints.pytorch.pickle_names import STORAGE_TYPES
from nonlocal_jax.errors import UserError

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_TYPES.items()}
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
_REBUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


@dataclass
class Dumped:
    """A pickle, and the arrays it refers to by key, contiguous and little-endian."""

    pickle: bytes = b""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def dump(value: object, *, legacy: bool = False) -> Dumped:
    """Pickles dicts, OrderedDicts, lists, tuples, scalars and NumPy arrays (as tensors).

    Raises:
      UserError: a value of another type, or an array of a type that PyTorch doesn't have.
    """
    writer = _Writer(legacy)
    writer.write(value)
    return Dumped(b"\x80\x02" + b"".join(writer.parts) + b".", writer.arrays)


class _Writer:
    """Emits protocol 2; no memo, since nothing here is shared."""

    def __init__(self, legacy: bool):
        self.parts: list[bytes] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._legacy = legacy

    def write(self, value: object) -> None:
        """Appends the instructions that build the value."""
        if isinstance(value, np.ndarray):
            self._tensor(value)
        elif isinstance(value, dict):
            self.parts += [_ORDERED_DICT if isinstance(value, OrderedDict) else b"}", b"("]
            for key, item in value.items():
                self.write(key)
                self.write(item)
            self.parts.append(b"u")
        elif isinstance(value, list):
            self._sequence(b"](", value, b"e")
        elif isinstance(value, tuple):
            self._sequence(b"(", value, b"t")
        else:
            self.parts.append(_scalar(value))

    def _sequence(self, start: bytes, values: Sequence[object], end: bytes) -> None:
        self.parts.append(start)
        for value in values:
            self.write(value)
        self.parts.append(end)

    def _tensor(self, array: np.ndarray) -> None:
        if array.dtype.name not in _STORAGE_NAMES:
            raise UserError(f"PyTorch has no tensors of type {array.dtype.name}.")
        shape = array.shape
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        key = str(len(self.arrays))
        self.arrays[key] = array
        storage = f"ctorch\n{_STORAGE_NAMES[array.dtype.name]}\n".encode()
        self.parts += [_REBUILD_TENSOR, b"((", _scalar("storage"), storage]
        for value in (key, "cpu", array.size, *([None] if self._legacy else [])):
            self.write(value)
        self.parts += [b"tQ", _scalar(0)]
        self.write(shape)
        self.write(_contiguous_strides(shape))
        self.parts += [_scalar(False), _ORDERED_DICT, b"tR"]


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def _scalar(value: object) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + struct.pack("<B", len(data)) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    raise UserError(f"A checkpoint of PyTorch cannot hold a {type(value).__name__} here.")
