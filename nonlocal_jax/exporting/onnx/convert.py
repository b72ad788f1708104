"""From a JAX program to an ONNX graph: one handler for each primitive, found by its name."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from nonlocal_jax.exporting.onnx.dimensions import Dimensions, Length
from nonlocal_jax.exporting.onnx.graph import Graph
from nonlocal_jax.exporting.onnx.operations import (
    contractions,
    elementwise,
    indexing,
    loops,
    reductions,
    shapes,
)
from nonlocal_jax.exporting.onnx.step import Handler, Step, Unsupported, value_info
from nonlocal_jax.exporting.onnx.values import FOLDED_SIZE, Value

HANDLERS: dict[str, Handler] = {
    **elementwise.HANDLERS,
    **shapes.HANDLERS,
    **contractions.HANDLERS,
    **reductions.HANDLERS,
    **indexing.HANDLERS,
    **loops.HANDLERS,
}
# Primitives that call a program, under one of these parameters. Rules of derivatives are left out.
PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Converter:
    """An ONNX model under construction, to which JAX functions are added one after the other.

    Args:
      name: of the model's input.
      array: shape and dtype of the input. Symbolic lengths (`jax.export.symbolic_shape`) that are
        single variables are known when the model runs.
    """

    def __init__(self, name: str, array: jax.ShapeDtypeStruct):
        self._graph = Graph()
        self._dimensions = Dimensions(self._graph)
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        order = tuple(range(len(shape)))
        value = Value(self._graph, self._dimensions, name, shape, dtype, order)
        self.input = self.measured(value, shape)

    def measured(self, value: Value, shape: Sequence[Length]) -> Value:
        """The same array with a shape whose new variables are read from it when the model runs."""
        for axis, length in enumerate(shape):
            if not isinstance(length, int) and str(length) not in self._dimensions.variables:
                place = value.axis(axis)
                measured = self._graph.node("Shape", value.name, start=place, end=place + 1)
                self._dimensions.variables[str(length)] = measured
        return dataclasses.replace(value, shape=tuple(shape))

    def add(self, function: Callable[..., Any], *inputs: Value) -> list[Value]:
        """The results of a function of arrays. Arrays that it holds become constants of the model.

        Raises:
          Unsupported: it needs something that has no counterpart.
        """
        arrays = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in inputs]
        return self.inline(self._graph, jax.jit(function).trace(*arrays).jaxpr, inputs)

    def model(self, name: str, result: Value, *more: tuple[str, Value]) -> onnx.ModelProto:
        """The model whose output is `result`, under a name; `more` are further ones."""
        outputs = [(name, result), *more]
        for title, value in outputs:
            self._graph.copy(value.whole(), title)
        return self._graph.model(
            [value_info(self.input.name, self.input.dtype, self.input.shape)],
            [value_info(title, value.dtype, value.shape) for title, value in outputs],
        )

    def inline(self, graph: Graph, program: Any, inputs: Sequence[Value]) -> list[Value]:
        """See `step.Inline`."""
        constants: Sequence[Any] = getattr(program, "consts", ())
        jaxpr = getattr(program, "jaxpr", program)
        held = [_constant(graph, self._dimensions, array) for array in constants]
        known = dict(
            zip(
                itertools.chain(jaxpr.constvars, jaxpr.invars),
                itertools.chain(held, inputs),
                strict=True,
            )
        )

        def read(variable: Any) -> Value:
            if isinstance(variable, core.Literal):
                aval: Any = variable.aval
                return _constant(graph, self._dimensions, np.asarray(variable.val, aval.dtype))
            found: Value = known[variable]
            return found

        for equation in jaxpr.eqns:
            results = self._results(graph, equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _results(self, graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        program = next((params[key] for key in PROGRAMS if key in params), None)
        if program is not None and name not in HANDLERS:
            return self.inline(graph, program, inputs)
        folded = _folded(equation, inputs)
        if folded is not None:
            return [_constant(graph, self._dimensions, array) for array in folded]
        if name not in HANDLERS:
            raise Unsupported(name)
        step = Step(
            name,
            params,
            [tuple(variable.aval.shape) for variable in equation.outvars],
            [np.dtype(variable.aval.dtype) for variable in equation.outvars],
            graph,
            self._dimensions,
            self.inline,
        )
        results = HANDLERS[name](step, *inputs)
        return results if isinstance(results, list) else [results]


def _constant(graph: Graph, dimensions: Dimensions, value: Any) -> Value:
    array = np.asarray(value)
    order = tuple(range(array.ndim))
    return Value(graph, dimensions, "", array.shape, array.dtype, order, array=array)


def _folded(equation: Any, inputs: Sequence[Value]) -> list[np.ndarray] | None:
    """The results of a step on constants, computed by JAX, unless they take far more memory."""
    if not inputs or equation.primitive.name in loops.HANDLERS:
        return None
    arrays = [value.folded() for value in inputs]
    shapes_ = [variable.aval.shape for variable in equation.outvars]
    if any(array is None for array in arrays) or not _static(shapes_, equation.params):
        return None
    size = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes_)
    if size > max(FOLDED_SIZE, sum(array.size for array in arrays if array is not None)):
        return None
    with jax.ensure_compile_time_eval():
        results = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
    results = results if equation.primitive.multiple_results else [results]
    return [np.asarray(result) for result in results]


def _static(shapes_: Sequence[Sequence[Any]], params: Mapping[str, Any]) -> bool:
    """Whether a step has no length that is known only when the model runs."""
    lengths = jax.tree.leaves([list(shapes_), dict(params)])
    return not any(jax.export.is_symbolic_dim(length) for length in lengths)
