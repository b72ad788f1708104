"""Functions that move elements: reshaping, repeating, joining and cutting."""

from collections.abc import Sequence

import numpy as np

from nonlocal_jax.exporting.onnx.dimensions import Length
from nonlocal_jax.exporting.onnx.step import Handler, Step
from nonlocal_jax.exporting.onnx.values import Order, Value, common_order

LAST = np.iinfo(np.int64).max  # of a slice: up to the end


def _broadcast(step: Step, x: Value, *lengths: Value) -> Value:
    """Adds axes of length 1; a later operator repeats what it reads."""
    places, shape = step.params["broadcast_dimensions"], step.shape
    repeated = {a for a, n in enumerate(shape) if a not in places and n != 1}
    repeated |= {p for a, p in enumerate(places) if x.shape[a] == 1 and shape[p] != 1}
    repeated |= {places[axis] for axis in x.thin}
    if x.array is not None:
        array = np.expand_dims(x.array, [a for a in range(len(shape)) if a not in places])
        return step.constant(array, shape)
    if len(places) == len(shape):
        return step.result(x.name, order=x.order, thin=frozenset(repeated))
    new = [axis for axis in range(len(shape)) if axis not in places]
    made = step.graph.node("Unsqueeze", x.ordered(), step.graph.integers(new)) if new else x.name
    return step.result(made, thin=frozenset(repeated))


def _reshape(step: Step, x: Value, *lengths: Value) -> Value:
    return step.result(reshape(step, x.whole(), step.shape))


def reshape(step: Step, name: str, shape: Sequence[Length]) -> str:
    """A tensor with another shape. One length may be left to ONNX."""
    unknown = [axis for axis, length in enumerate(shape) if not isinstance(length, int)]
    if len(unknown) == 1 and 0 not in shape:
        shape = [-1 if axis in unknown else length for axis, length in enumerate(shape)]
    return step.graph.node("Reshape", name, step.dimensions.vector(shape))


def _transpose(step: Step, x: Value) -> Value:
    turn = step.params["permutation"]
    if x.array is not None:
        return step.constant(x.array.transpose(turn), step.shape)
    new = {old: axis for axis, old in enumerate(turn)}
    order = tuple(new[axis] for axis in x.order)
    return step.result(x.name, order=order, thin=frozenset(new[axis] for axis in x.thin))


def _squeeze(step: Step, x: Value) -> Value:
    gone = [axis % x.rank for axis in step.params["dimensions"]]
    if x.array is not None:
        return step.constant(x.array.squeeze(tuple(gone)), step.shape)
    axes = step.graph.integers(sorted(x.axis(axis) for axis in gone))
    order, thin = without(x.order, x.thin, gone)
    return step.result(step.graph.node("Squeeze", x.name, axes), order=order, thin=thin)


def without(
    order: Order, thin: frozenset[int], gone: Sequence[int]
) -> tuple[Order, frozenset[int]]:
    """Order and thin axes of a tensor without the axes `gone` of its array."""
    left = [axis for axis in range(len(order)) if axis not in gone]
    new = {old: axis for axis, old in enumerate(left)}
    return (
        tuple(new[axis] for axis in order if axis in new),
        frozenset(new[axis] for axis in thin if axis in new),
    )


def _expand_dims(step: Step, x: Value) -> Value:
    new = step.params["dimensions"]
    made = step.graph.node("Unsqueeze", x.ordered(), step.graph.integers(new))
    left = [axis for axis in range(len(step.shape)) if axis not in new]
    return step.result(made, thin=frozenset(left[axis] for axis in x.thin))


def _concatenate(step: Step, *inputs: Value) -> Value:
    order = common_order(inputs, len(step.shape))
    joined = step.params["dimension"]
    names = [value.whole(order) for value in inputs]
    return step.result(step.graph.node("Concat", *names, axis=order.index(joined)), order=order)


def _stack(step: Step, *inputs: Value) -> Value:
    axis, graph = step.params["axis"] % len(step.shape), step.graph
    places = graph.integers([axis])
    names = [graph.node("Unsqueeze", value.whole(), places) for value in inputs]
    return step.result(graph.node("Concat", *names, axis=axis))


def _unstack(step: Step, x: Value) -> list[Value]:
    axis = step.params["axis"] % x.rank
    name = x.whole()
    return [
        step.result(
            step.graph.node("Gather", name, step.graph.constant(np.array(place)), axis=axis),
            index=place,
        )
        for place in range(len(step.shapes))
    ]


def _tile(step: Step, x: Value) -> Value:
    counts = step.graph.integers(step.params["reps"])
    return step.result(step.graph.node("Tile", x.whole(), counts))


def _split(step: Step, x: Value) -> list[Value]:
    axis, sizes = step.params["axis"], step.params["sizes"]
    if axis in x.thin:
        x = step.result(x.whole(x.order), order=x.order)
    made = step.graph.nodes_of(
        "Split",
        (x.ordered(x.order), step.dimensions.vector(sizes)),
        len(sizes),
        axis=x.axis(axis),
    )
    return [
        step.result(name, index=index, order=x.order, thin=x.thin)
        for index, name in enumerate(made)
    ]


def _pad(step: Step, x: Value, filling: Value) -> Value:
    """Negative padding cuts."""
    config = step.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise step.refuse("between elements")
    padded = [axis for axis, (low, high, _) in enumerate(config) if (low, high) != (0, 0)]
    if not padded:
        return x
    pads = step.dimensions.vector([config[a][0] for a in padded] + [config[a][1] for a in padded])
    axes = step.graph.integers(x.axis(axis) for axis in padded)
    name = x.whole(x.order, only=padded)
    made = step.graph.node("Pad", name, pads, filling.ordered(), axes)
    return step.result(made, order=x.order, thin=x.thin.difference(padded))


def _slice(step: Step, x: Value) -> Value:
    starts, limits = step.params["start_indices"], step.params["limit_indices"]
    strides = step.params["strides"] or (1,) * x.rank
    cut = [
        axis
        for axis in range(x.rank)
        if (starts[axis], strides[axis]) != (0, 1) or limits[axis] != x.shape[axis]
    ]
    if not cut:
        return x
    name = x.whole(x.order, only=cut)
    vectors = [
        step.dimensions.vector([bounds[axis] for axis in cut]) for bounds in (starts, limits)
    ]
    axes = step.graph.integers(x.axis(axis) for axis in cut)
    steps = step.graph.integers(strides[axis] for axis in cut)
    made = step.graph.node("Slice", name, *vectors, axes, steps)
    return step.result(made, order=x.order, thin=x.thin - frozenset(cut))


def _reverse(step: Step, x: Value) -> Value:
    turned = [axis for axis in step.params["dimensions"] if axis not in x.thin]
    if not turned:
        return x
    axes = [x.axis(axis) for axis in turned]
    count = len(axes)
    vectors = ([-1] * count, [-LAST] * count, axes, [-1] * count)
    made = step.graph.node("Slice", x.ordered(x.order), *map(step.graph.integers, vectors))
    return step.result(made, order=x.order, thin=x.thin)


def _iota(step: Step, *lengths: Value) -> Value:
    axis, shape = step.params["dimension"], step.shape
    others = [other for other in range(len(shape)) if other != axis]
    if isinstance(shape[axis], int):
        return step.constant(
            np.expand_dims(np.arange(shape[axis]).astype(step.dtype), others), shape
        )
    graph = step.graph
    bounds = [graph.constant(np.array(n, np.int64)) for n in (0, 1)]
    made = graph.node("Range", bounds[0], step.dimensions.scalar(shape[axis]), bounds[1])
    made = step.cast(made, step.dtype)
    if others:
        made = graph.node("Unsqueeze", made, graph.integers(others))
    return step.result(made, thin=frozenset(a for a in others if shape[a] != 1))


HANDLERS: dict[str, Handler] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "split": _split,
    "pad": _pad,
    "slice": _slice,
    "rev": _reverse,
    "iota": _iota,
}
