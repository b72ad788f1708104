"""From a loaded pickle to plain containers and arrays, within bounds."""

import math

import numpy as np

from nonlocal_jax.checkpoints.pytorch.pickle_data import Loaded
from nonlocal_jax.checkpoints.pytorch.pickle_names import (
    DTYPES,
    Encoded,
    FormatError,
    NumpyArray,
    TensorView,
    Unknown,
    array_values,
)

MAX_DEPTH = 64
# A container can hold another one twice, and so on: a few hundred bytes can describe a tree that
# fits no memory. Each value counts as often as it appears, with about its size in bytes.
MAX_COST = 64 * 2**20
VALUE_COST = 64


def finish(loaded: Loaded, contents: dict[str, memoryview]) -> object:
    """Returns the value as dicts, lists, tuples and scalars of its own, and arrays on `contents`.

    An `Unknown` in it stays, and takes the place of a function or a bare storage.

    Raises:
      FormatError: it is nested too deeply or too large, or is unknown itself.
    """
    return _Finisher(contents).finish(loaded.value, 0)


class _Finisher:
    def __init__(self, contents: dict[str, memoryview]):
        self._contents = contents
        self._cost = 0

    def finish(self, value: object, depth: int) -> object:
        """Returns a copy of the value; see above."""
        self._spend(value, depth)
        if isinstance(value, dict):
            for key in value:
                if isinstance(key, Unknown):
                    _inside(key, depth)
            return {key: self.finish(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.finish(item, depth + 1) for item in value]
        if isinstance(value, tuple):
            return tuple(self.finish(item, depth + 1) for item in value)
        if isinstance(value, TensorView):
            return self._array(value)
        if isinstance(value, NumpyArray) and value.unknown:
            return _inside(value.unknown, depth)
        if isinstance(value, NumpyArray):
            size = value.dtype.itemsize if value.dtype else 0  # of a text, any
            self._cost += (VALUE_COST + size) * math.prod(value.shape)
            self._check_cost()
            return array_values(value)
        if isinstance(value, str | bytes | int | float | None):
            return value
        if isinstance(value, Encoded):
            return _inside(Unknown("bytes", "it is bytes"), depth)
        if isinstance(value, Unknown):
            return _inside(value, depth)
        bare = f"a bare {type(value).__name__.lower()}"
        return _inside(Unknown(bare, f"it holds {bare}, not a value"), depth)

    def _spend(self, value: object, depth: int) -> None:
        texts = value if isinstance(value, dict) else (value,)
        self._cost += VALUE_COST + sum(len(text) for text in texts if isinstance(text, str | bytes))
        if depth > MAX_DEPTH:
            raise FormatError(f"its values are nested more than {MAX_DEPTH} deep")
        self._check_cost()

    def _check_cost(self) -> None:
        if self._cost > MAX_COST:
            raise FormatError("its values would unfold to more than a checkpoint can hold")

    def _array(self, view: TensorView) -> np.ndarray:
        dtype = DTYPES[view.storage.dtype]
        strides = tuple(stride * dtype.itemsize for stride in view.strides)
        if 0 in view.shape:
            strides = (0,) * len(strides)
        try:
            return np.ndarray(
                view.shape,
                dtype,
                self._contents[view.storage.key],
                view.offset * dtype.itemsize,
                strides,
            )
        except (ValueError, MemoryError) as error:
            raise FormatError(f"a tensor's shape {view.shape} is not possible") from error


def _inside(value: Unknown, depth: int) -> Unknown:
    """The value, which may only be part of another one."""
    if not depth:
        raise FormatError(value.reason)
    return value
