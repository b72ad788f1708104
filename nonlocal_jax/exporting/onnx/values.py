"""An array of a JAX program as a tensor of an ONNX graph.

The tensor may hold its axes in another order than JAX's: ONNX convolves images whose channels come
first. And it may have length 1 along an axis where JAX's array repeats one number, because ONNX's
operators repeat it themselves. So neither transposing nor repeating an array takes time until
something needs it.
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from nonlocal_jax.exporting.onnx.dimensions import Dimensions, Length
from nonlocal_jax.exporting.onnx.graph import Graph

Order = tuple[int, ...]
FOLDED_SIZE = 4096  # Larger constants that repeat a number are stored without the repetition.


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of a JAX program.

    Attributes:
      graph: the graph that computes it.
      dimensions: computes lengths.
      name: of the tensor; "" of a constant.
      shape: of JAX's array.
      dtype: of the array.
      order: axis j of the tensor is axis order[j] of the array.
      thin: axes of the array that have length 1 in the tensor, and are longer in the array.
      array: of a constant, in JAX's order.
    """

    graph: Graph
    dimensions: Dimensions
    name: str
    shape: tuple[Length, ...]
    dtype: np.dtype
    order: Order
    thin: frozenset[int] = frozenset()
    array: np.ndarray | None = None

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def axis(self, axis: int) -> int:
        """Where the tensor has an axis of the array."""
        return self.order.index(axis)

    def ordered(self, order: Sequence[int] | None = None) -> str:
        """The tensor with its axes in an order, JAX's by default. Thin axes have length 1."""
        order = tuple(range(self.rank)) if order is None else tuple(order)
        if self.array is not None:
            return self.graph.constant(self.array.transpose(order))
        if order == self.order:
            return self.name
        turn = [self.order.index(axis) for axis in order]
        return self.graph.node("Transpose", self.name, perm=turn)

    def whole(
        self, order: Sequence[int] | None = None, *, only: Collection[int] | None = None
    ) -> str:
        """The tensor with its axes in an order, at full length: on all axes, or on some `only`."""
        order = tuple(range(self.rank)) if order is None else tuple(order)
        left = frozenset() if only is None else self.thin.difference(only)
        if left == self.thin:
            return self.ordered(order)
        lengths = [1 if axis in left else self.shape[axis] for axis in order]
        shape = self.dimensions.vector(lengths)
        return self.graph.node("Expand", self.ordered(order), shape)

    def folded(self) -> np.ndarray | None:
        """The array of a constant at full length, unless that is a large repetition."""
        if self.array is None or not self.thin:
            return self.array
        if not all(isinstance(n, int) for n in self.shape):
            return None
        size = int(np.prod(self.shape, dtype=np.int64))
        return np.broadcast_to(self.array, self.shape) if size <= FOLDED_SIZE else None


def common_order(values: Sequence[Value], rank: int) -> Order:
    """The order in which the fewest of `values` have to be transposed, as far as it matters."""
    plain = tuple(range(rank))
    large = [
        value
        for value in values
        if value.array is None and value.rank == rank and rank - len(value.thin) > 1
    ]
    return next((value.order for value in large if value.order != plain), plain)


def common_thin(values: Sequence[Value], shape: Sequence[Length]) -> frozenset[int]:
    """The axes along which a result of `values` repeats one number.

    Values may have no axes, or length 1 along an axis, as JAX's functions of elements allow.
    """

    def repeats(value: Value, axis: int) -> bool:
        return value.rank == 0 or axis in value.thin or bool(value.shape[axis] == 1)

    return frozenset(
        axis
        for axis, length in enumerate(shape)
        if length != 1 and all(repeats(value, axis) for value in values)
    )
