"""Reads and writes safetensors files, in which timm and others publish PyTorch weights.

The safetensors package does both. Its NumPy functions don't read bfloat16, so arrays are made here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from nonlocal_jax.checkpoints.pytorch.pickle_names import FormatError, printable
from nonlocal_jax.runtime.files import write_whole

SUFFIX = ".safetensors"
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
      FormatError: it is damaged, no safetensors file, or has a tensor of another type.
      OSError: it cannot be read.
    """
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        reason = printable(str(error).rpartition("deserializing: ")[2])
        raise FormatError(f"it is damaged, cut off, or of another kind ({reason})") from error
    return {name: _array(name, tensor) for name, tensor in tensors}


def write(path: Path, tensors: Mapping[str, np.ndarray], about: Mapping[str, str]) -> None:
    """Writes a file of tensors, with `about` in its header.

    Raises:
      OSError: it cannot be written.
    """
    # The package reads memory from each array's first byte on, whatever its strides.
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    write_whole(path, safetensors.numpy.save(contiguous, dict(about)))


def _array(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    dtype = DTYPES.get(tensor["dtype"])
    if dtype is None:
        raise FormatError(f"{printable(name)} has a type that is not known")
    values = np.frombuffer(memoryview(tensor["data"]).toreadonly(), dtype)
    return values.reshape(tensor["shape"])
