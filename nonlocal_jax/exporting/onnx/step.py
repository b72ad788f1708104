"""What converts one primitive of JAX: a function from a step of the program and its inputs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper

from nonlocal_jax.exporting.onnx.dimensions import Dimensions, Length
from nonlocal_jax.exporting.onnx.graph import Graph
from nonlocal_jax.exporting.onnx.values import Order, Value


class Unsupported(Exception):
    """A step that has no counterpart. The text names the primitive, and what of it is missing."""


class Inline(Protocol):
    """Converts a JAX program inside of another one."""

    def __call__(self, graph: Graph, program: Any, inputs: Sequence[Value]) -> list[Value]:
        """The results of `program`, a jaxpr with or without constants, computed in `graph`."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One equation of a JAX program.

    Attributes:
      name: of the primitive.
      params: of the primitive.
      shapes: of the results.
      dtypes: of the results.
      graph: where its nodes go.
      dimensions: computes lengths.
      inline: converts a program that it calls.
    """

    name: str
    params: Mapping[str, Any]
    shapes: Sequence[tuple[Length, ...]]
    dtypes: Sequence[np.dtype]
    graph: Graph
    dimensions: Dimensions
    inline: Inline

    @property
    def shape(self) -> tuple[Length, ...]:
        """The shape of the only result."""
        return self.shapes[0]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the only result."""
        return self.dtypes[0]

    def result(
        self,
        name: str,
        *,
        index: int = 0,
        order: Order | None = None,
        thin: frozenset[int] = frozenset(),
    ) -> Value:
        """A result, which the tensor `name` holds; see Value."""
        shape = self.shapes[index]
        order = tuple(range(len(shape))) if order is None else tuple(order)
        return Value(
            self.graph, self.dimensions, name, shape, self.dtypes[index], order, frozenset(thin)
        )

    def constant(self, array: np.ndarray, shape: tuple[Length, ...] | None = None) -> Value:
        """A constant; with `shape`, of that shape, where axes of length 1 may be thin."""
        array = np.asarray(array)
        shape = array.shape if shape is None else shape
        thin = frozenset(a for a, n in enumerate(shape) if array.shape[a] == 1 and n != 1)
        order = tuple(range(array.ndim))
        return Value(self.graph, self.dimensions, "", shape, array.dtype, order, thin, array)

    def cast(self, name: str, dtype: np.dtype | type) -> str:
        """A tensor in another dtype."""
        return self.graph.node("Cast", name, to=element_type(np.dtype(dtype)))

    def converted(self, value: Value, dtype: np.dtype | type) -> Value:
        """An array in another dtype."""
        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.array is not None:
            return self.constant(value.array.astype(dtype), value.shape)
        # In the value's own graph: outside of a loop whose body only reads it.
        made = value.graph.node("Cast", value.name, to=element_type(dtype))
        return dataclasses.replace(value, name=made, dtype=dtype)

    def refuse(self, why: str) -> Unsupported:
        """An error that says what of this primitive has no counterpart."""
        return Unsupported(f"{self.name} ({why})")


Handler = Callable[..., Value | list[Value]]


def element_type(dtype: np.dtype) -> int:
    """ONNX's number of a dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def value_info(name: str, dtype: np.dtype, shape: Sequence[Length]) -> onnx.ValueInfoProto:
    """The declaration of a tensor. Lengths that are known when the model runs have no name."""
    lengths = [length if isinstance(length, int) else None for length in shape]
    return helper.make_tensor_value_info(name, element_type(dtype), lengths)
