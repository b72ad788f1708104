"""Lengths of axes that are known when the model runs: expressions of the lengths of its input."""

import ast
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nonlocal_jax.exporting.onnx.graph import Graph

Length = Any  # an int, or a symbolic dimension of jax.export
_OPERATORS = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}


class Dimensions:
    """Computes lengths in the outermost graph, each once, as vectors of one int64.

    Args:
      graph: any graph of the model.

    Attributes:
      variables: the vector that holds each variable, such as {"h": "Shape_3"}.
    """

    def __init__(self, graph: Graph):
        self._graph = graph.root
        self.variables: dict[str, str] = {}
        self._calls: dict[str, Callable[..., str]] = {
            "floordiv": self._floor_divide,
            "mod": lambda a, b: self._graph.node("Mod", a, b),
            "max": lambda *parts: self._graph.node("Max", *parts),
            "min": lambda *parts: self._graph.node("Min", *parts),
        }

    def one(self, length: Length) -> str:
        """A length as a vector of one number."""
        if isinstance(length, int | np.integer):
            return self._graph.integers([int(length)])
        # JAX reads this text back itself (jax.export.symbolic_shape), so it is stable.
        text = str(length).replace("^", "**")
        return self._of(ast.parse(text, mode="eval").body)

    def scalar(self, length: Length) -> str:
        """A length as a scalar."""
        if isinstance(length, int | np.integer):
            return self._graph.constant(np.array(length, np.int64))
        return self._graph.node("Squeeze", self.one(length))

    def vector(self, lengths: Sequence[Length]) -> str:
        """Several lengths, such as a shape."""
        if all(isinstance(length, int | np.integer) for length in lengths):
            return self._graph.integers(int(length) for length in lengths)
        return self._graph.node("Concat", *map(self.one, lengths), axis=0)

    def _of(self, tree: ast.expr) -> str:
        node = self._graph.node
        match tree:
            case ast.Constant(value=int(value)):
                return self._graph.integers([value])
            case ast.Name(id=name):
                return self.variables[name]
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return node("Neg", self._of(part))
            case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int(power))):
                return node("Pow", self._of(base), self._graph.integers([power]))
            case ast.BinOp(left=left, op=operator, right=right):
                return node(_OPERATORS[type(operator)], self._of(left), self._of(right))
            case ast.Call(func=ast.Name(id=name), args=parts):
                return self._calls[name](*map(self._of, parts))
        raise AssertionError(f"a length of JAX: {ast.unparse(tree)}")

    def _floor_divide(self, a: str, b: str) -> str:
        """ONNX's Div rounds towards zero; its Mod has the sign of the divisor."""
        node = self._graph.node
        return node("Div", node("Sub", a, node("Mod", a, b)), b)
