"""Functions of several elements: sums, extremes, windows."""

from functools import partial

import numpy as np

from nonlocal_jax.exporting.onnx.operations.shapes import without
from nonlocal_jax.exporting.onnx.step import Handler, Step
from nonlocal_jax.exporting.onnx.values import Value


def _reduce(operator: str, step: Step, x: Value) -> Value:
    axes = step.params["axes"]
    name = x.whole(x.order, only=axes)
    if not axes:
        return step.result(name, order=x.order, thin=x.thin)
    made = step.graph.node(
        operator, name, step.graph.integers(sorted(x.axis(axis) for axis in axes)), keepdims=0
    )
    order, thin = without(x.order, x.thin, axes)
    return step.result(made, order=order, thin=thin)


def _reduce_bools(operator: str, step: Step, x: Value) -> Value:
    """All or any, as the smallest or largest of zeros and ones."""
    reduced = _reduce(operator, step, step.converted(x, np.int32))
    return step.result(step.cast(reduced.name, np.bool_), order=reduced.order, thin=reduced.thin)


def _first_extreme(operator: str, step: Step, x: Value) -> Value:
    (axis,) = step.params["axes"]
    name = x.whole(x.order, only=(axis,))
    made = step.graph.node(operator, name, axis=x.axis(axis), keepdims=0)
    order, thin = without(x.order, x.thin, [axis])
    return step.result(step.cast(made, step.dtype), order=order, thin=thin)


def _cumulative_sum(step: Step, x: Value) -> Value:
    axis = step.graph.constant(np.array(x.axis(step.params["axis"]), np.int64))
    reverse = int(step.params["reverse"])
    return step.result(
        step.graph.node("CumSum", x.whole(x.order), axis, reverse=reverse), order=x.order
    )


def _max_pool(step: Step, x: Value) -> Value:
    """The largest of each window. ONNX pads with the least number, as JAX does."""
    params = step.params
    sizes, strides = params["window_dimensions"], params["window_strides"]
    pads, dilations = params["padding"], params["window_dilation"]
    space = [a for a, size in enumerate(sizes) if size != 1 or strides[a] != 1 or any(pads[a])]
    others = [axis for axis in range(x.rank) if axis not in space]
    if len(others) != 2 or set(params["base_dilation"]) != {1}:
        raise step.refuse("over axes other than those of images")
    order = (*others, *space)
    made = step.graph.node(
        "MaxPool",
        x.whole(order),
        kernel_shape=[sizes[axis] for axis in space],
        strides=[strides[axis] for axis in space],
        pads=[pads[axis][side] for side in (0, 1) for axis in space],
        dilations=[dilations[axis] for axis in space],
    )
    return step.result(made, order=order)


HANDLERS: dict[str, Handler] = {
    "reduce_sum": partial(_reduce, "ReduceSum"),
    "reduce_max": partial(_reduce, "ReduceMax"),
    "reduce_min": partial(_reduce, "ReduceMin"),
    "reduce_prod": partial(_reduce, "ReduceProd"),
    "reduce_and": partial(_reduce_bools, "ReduceMin"),
    "reduce_or": partial(_reduce_bools, "ReduceMax"),
    "argmax": partial(_first_extreme, "ArgMax"),
    "argmin": partial(_first_extreme, "ArgMin"),
    "cumsum": _cumulative_sum,
    "reduce_window_max": _max_pool,
}
