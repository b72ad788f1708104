"""From a JAX program to an ONNX graph: one handler for each primitive, found by its name."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from nonlocal_jax.exporting.onnx.dimensions import Dimensions
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


def convert(
    function: Callable[[jax.Array], jax.Array | Sequence[jax.Array]],
    images: jax.ShapeDtypeStruct,
    *,
    input_name: str,
    output_name: str | Sequence[str],
) -> onnx.ModelProto:
    """A function of one array as an ONNX model.

    Args:
      function: arrays that it holds become constants of the model.
      images: shape and dtype of its argument. Symbolic lengths (`jax.export.symbolic_shape`) that
        are single variables are known when the model runs.
      input_name: of the argument in the model.
      output_name: of the result; a name for each if the function returns several.

    Raises:
      Unsupported: the function needs something that has no counterpart.
    """
    program = jax.jit(function).trace(images).jaxpr
    graph = Graph()
    variables = {
        str(length): graph.node("Shape", input_name, start=axis, end=axis + 1)
        for axis, length in enumerate(images.shape)
        if not isinstance(length, int)
    }
    dimensions = Dimensions(graph, variables)
    dtype = np.dtype(images.dtype)
    order = tuple(range(len(images.shape)))
    given = Value(graph, dimensions, input_name, tuple(images.shape), dtype, order)
    results = _Converter(dimensions).inline(graph, program, [given])
    names = [output_name] if isinstance(output_name, str) else output_name
    for name, result in zip(names, results, strict=True):
        graph.copy(result.whole(), name)
    return graph.model(
        [value_info(input_name, dtype, given.shape)],
        [value_info(n, r.dtype, r.shape) for n, r in zip(names, results, strict=True)],
    )


class _Converter:
    def __init__(self, dimensions: Dimensions):
        self._dimensions = dimensions

    def inline(self, graph: Graph, program: Any, inputs: Sequence[Value]) -> list[Value]:
        """See `step.Inline`."""
        constants: Sequence[Any] = getattr(program, "consts", ())
        jaxpr = getattr(program, "jaxpr", program)
        held = [self._constant(graph, array) for array in constants]
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
                return self._constant(graph, np.asarray(variable.val, aval.dtype))
            found: Value = known[variable]
            return found

        for equation in jaxpr.eqns:
            results = self._results(graph, equation, [read(v) for v in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def _constant(self, graph: Graph, value: Any) -> Value:
        array = np.asarray(value)
        order = tuple(range(array.ndim))
        return Value(graph, self._dimensions, "", array.shape, array.dtype, order, array=array)

    def _results(self, graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        program = next((params[key] for key in PROGRAMS if key in params), None)
        if program is not None and name not in HANDLERS:
            return self.inline(graph, program, inputs)
        folded = _folded(equation, inputs)
        if folded is not None:
            return [self._constant(graph, array) for array in folded]
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
