"""Reads safetensors files, in which timm and others publish PyTorch weights.

A file is the size of a header in 8 bytes, the header as JSON, and the bytes of all tensors. The
header has each tensor's type, shape, and place among the bytes.
"""

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nonlocal_jax.checkpoints.pytorch.pickle_names import FormatError, printable

SUFFIX = ".safetensors"
SIZE_BYTES = 8
# A backbone has some hundred tensors, whose header takes 50 kB.
MAX_HEADER_BYTES = 8 * 2**20
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as read-only arrays.

    Raises:
      FormatError: it is damaged, or no safetensors file.
      OSError: it cannot be read.
    """
    data = path.read_bytes()
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    if size > min(MAX_HEADER_BYTES, len(data) - SIZE_BYTES):
        raise FormatError("its header is damaged, or it is cut off")
    content = memoryview(data)[SIZE_BYTES + size :]
    try:
        header = json.loads(data[SIZE_BYTES : SIZE_BYTES + size])
    except (ValueError, RecursionError) as error:
        raise FormatError("its header is no JSON") from error
    if not isinstance(header, dict):
        raise FormatError("its header has no tensors")
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(*item)):
        tensors[name], end = _tensor(name, entry, content, end)
    if end != len(content):
        raise FormatError("it has bytes that belong to no tensor, or it is cut off")
    return {name: tensors[name] for name in header}


def _begin(name: str, entry: Any) -> int:
    """Where the bytes of a tensor begin."""
    try:
        begin, _ = entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"its header is damaged at {printable(name)}") from error
    if type(begin) is not int:
        raise FormatError(f"its header is damaged at {printable(name)}")
    return begin


def _tensor(
    name: str, entry: dict[str, Any], content: memoryview, begins: int
) -> tuple[np.ndarray, int]:
    """A tensor whose bytes begin at `begins`, and where they end."""
    begin, end = entry["data_offsets"]
    dtype, shape = DTYPES.get(str(entry.get("dtype"))), entry.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise FormatError(f"its header is damaged at {printable(name)}")
    if dtype is None:
        raise FormatError(f"{printable(name)} has a type that is not known")
    if begin != begins or end != begin + math.prod(shape) * dtype.itemsize:
        raise FormatError(f"its header is damaged at {printable(name)}")
    if end > len(content):
        raise FormatError("it is cut off")
    return np.frombuffer(content[begin:end], dtype).reshape(shape), end
