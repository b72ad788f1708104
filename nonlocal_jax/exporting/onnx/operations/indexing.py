"""Functions whose places are computed: gathers and slices."""

from collections.abc import Sequence

import numpy as np

from nonlocal_jax.exporting.onnx.dimensions import Length
from nonlocal_jax.exporting.onnx.operations.shapes import LAST, without
from nonlocal_jax.exporting.onnx.step import Handler, Step
from nonlocal_jax.exporting.onnx.values import Value


def _dynamic_slice(step: Step, x: Value, *rest: Value) -> Value:
    """A slice of constant size, moved back into the array where it would leave it."""
    sizes, graph = step.params["slice_sizes"], step.graph
    cut = [axis for axis in range(x.rank) if sizes[axis] != x.shape[axis]]
    if not cut:
        return x
    starts = [_start(step, rest[axis], x.shape[axis] - sizes[axis]) for axis in cut]
    start = starts[0] if len(cut) == 1 else graph.node("Concat", *starts, axis=0)
    end = graph.node("Add", start, step.dimensions.vector([sizes[axis] for axis in cut]))
    name = x.whole(x.order, only=cut)
    made = graph.node("Slice", name, start, end, graph.integers(map(x.axis, cut)))
    return step.result(made, order=x.order, thin=x.thin - frozenset(cut))


def _start(step: Step, place: Value, last: Length) -> str:
    """A place between 0 and `last`, as a vector of one int64."""
    graph = step.graph
    wide = graph.node("Reshape", step.cast(place.ordered(), np.int64), graph.integers([1]))
    return graph.node(
        "Min", graph.node("Max", wide, graph.integers([0])), step.dimensions.one(last)
    )


def _dynamic_update_slice(step: Step, x: Value, update: Value, *starts: Value) -> Value:
    """An array in which a part is replaced."""
    parts = [
        (axis, _start(step, starts[axis], whole - part), part)
        for axis, (whole, part) in enumerate(zip(x.shape, update.shape, strict=True))
        if whole != part
    ]
    return step.result(_replaced(step, x.whole(), update.whole(), parts))


def _replaced(step: Step, whole: str, update: str, parts: list[tuple[int, str, Length]]) -> str:
    """A tensor in which the part that starts at a place, along some axes, is replaced."""
    if not parts:
        return update
    graph, (axis, start, length) = step.graph, parts[0]
    end = graph.node("Add", start, step.dimensions.one(length))
    before, middle, after = (
        graph.node("Slice", whole, *bounds, graph.integers([axis]))
        for bounds in (
            (graph.integers([0]), start),
            (start, end),
            (end, graph.integers([LAST])),
        )
    )
    inner = _replaced(step, middle, update, parts[1:])
    return graph.node("Concat", before, inner, after, axis=axis)


def _gather(step: Step, x: Value, indices: Value) -> Value:
    """A gather: as a slice or as ONNX's Gather where that suffices, or else as its GatherND."""
    numbers, fills = step.params["dimension_numbers"], _fills(step)
    if not fills and not numbers.operand_batching_dims:
        if indices.rank == 1:
            return _one_slice(step, x, indices)
        if len(numbers.start_index_map) == 1 and (
            numbers.start_index_map == numbers.collapsed_slice_dims
        ):
            return _along_one_axis(step, x, indices)
    return _by_places(step, x, indices)


def _fills(step: Step) -> bool:
    """Whether places beyond the array have a value of their own. Else they are moved into it."""
    return "fill" in str(step.params["mode"]).lower()


def _one_slice(step: Step, x: Value, index: Value) -> Value:
    """A single slice. It may start at a computed place."""
    numbers, sizes, graph = step.params["dimension_numbers"], step.params["slice_sizes"], step.graph
    indexed = numbers.start_index_map
    _check_rest(step, x, indexed)
    start = _clipped(step, x, index, indexed)
    end = graph.node("Add", start, step.dimensions.vector([sizes[axis] for axis in indexed]))
    name = x.whole(x.order, only=indexed)
    made = graph.node("Slice", name, start, end, graph.integers(map(x.axis, indexed)))
    gone = numbers.collapsed_slice_dims
    if gone:
        made = graph.node("Squeeze", made, graph.integers(sorted(map(x.axis, gone))))
    order, thin = without(x.order, x.thin - frozenset(indexed), gone)
    return step.result(made, order=order, thin=thin)


def _along_one_axis(step: Step, x: Value, indices: Value) -> Value:
    """Elements along one axis. The others stay in their order, and may be thin."""
    numbers = step.params["dimension_numbers"]
    (indexed,) = numbers.start_index_map
    _check_rest(step, x, (indexed,))
    rest = [axis for axis in range(x.rank) if axis != indexed]
    places = step.graph.node(
        "Squeeze", _clipped(step, x, indices, (indexed,)), step.graph.integers([-1])
    )
    name = x.whole(x.order, only=(indexed,))
    made = step.graph.node("Gather", name, places, axis=x.axis(indexed))
    place = dict(zip(rest, numbers.offset_dims, strict=True))
    of_indices = [axis for axis in range(len(step.shape)) if axis not in numbers.offset_dims]
    order: list[int] = []
    for axis in x.order:
        order.extend(of_indices if axis == indexed else [place[axis]])
    thin = frozenset(place[axis] for axis in x.thin if axis != indexed)
    return step.result(made, order=tuple(order), thin=thin)


def _by_places(step: Step, x: Value, indices: Value) -> Value:
    """Any gather.

    The array is read as [batch..., indexed..., rest...], where `rest` is taken whole. Where a slice
    is longer than 1 along an indexed axis, its places are added to the indices.
    """
    numbers = step.params["dimension_numbers"]
    batch, indexed = tuple(numbers.operand_batching_dims), tuple(numbers.start_index_map)
    _check_rest(step, x, (*batch, *indexed))
    rest = [axis for axis in range(x.rank) if axis not in (*batch, *indexed)]
    windows = [axis for axis in indexed if axis not in numbers.collapsed_slice_dims]
    shared = tuple(numbers.start_indices_batching_dims)
    others = [axis for axis in range(indices.rank - 1) if axis not in shared]
    turn = (*shared, *others)
    places = _places(step, x, indices, windows, turn)
    found = step.graph.node(
        "GatherND", x.whole((*batch, *indexed, *rest)), places, batch_dims=len(batch)
    )
    place = dict(zip(sorted([*windows, *rest]), numbers.offset_dims, strict=True))
    of_indices = [axis for axis in range(len(step.shape)) if axis not in numbers.offset_dims]
    order = (*(of_indices[axis] for axis in turn), *(place[axis] for axis in (*windows, *rest)))
    if _fills(step):
        found = _filled(step, found, _inside(step, x, indices, turn), len(windows) + len(rest))
    return step.result(found, order=order)


def _check_rest(step: Step, x: Value, indexed: Sequence[int]) -> None:
    """Raises unless all axes without an index are taken whole."""
    sizes, gone = step.params["slice_sizes"], step.params["dimension_numbers"].collapsed_slice_dims
    for axis in range(x.rank):
        if axis not in indexed and (sizes[axis] != x.shape[axis] or axis in gone):
            raise step.refuse("of a part of an axis that has no index")


def _clipped(
    step: Step, x: Value, indices: Value, indexed: Sequence[int], turn: Sequence[int] = ()
) -> str:
    """Indices as int64, moved to where their slices are in the array.

    `turn` is the order of their axes, without the last one.
    """
    order = (*turn, indices.rank - 1) if turn else None
    graph, sizes = step.graph, step.params["slice_sizes"]
    last = step.dimensions.vector([x.shape[axis] - sizes[axis] for axis in indexed])
    wide = step.cast(indices.whole(order), np.int64)
    return graph.node("Min", graph.node("Max", wide, graph.integers([0])), last)


def _places(
    step: Step, x: Value, indices: Value, windows: Sequence[int], turn: Sequence[int]
) -> str:
    """[indices' axes..., windows' axes..., number of indexed axes], int64, inside of the array."""
    graph, sizes = step.graph, step.params["slice_sizes"]
    indexed = step.params["dimension_numbers"].start_index_map
    places = _clipped(step, x, indices, indexed, turn)
    zero, one = (graph.constant(np.array(n, np.int64)) for n in (0, 1))
    for count, axis in enumerate(windows):
        places = graph.node("Unsqueeze", places, graph.integers([indices.rank - 1 + count]))
        steps = graph.node("Range", zero, step.dimensions.scalar(sizes[axis]), one)
        steps = graph.node("Unsqueeze", steps, graph.integers([1]))
        chosen = graph.integers(int(axis == other) for other in indexed)
        places = graph.node("Add", places, graph.node("Mul", steps, chosen))
    return places


def _inside(step: Step, x: Value, indices: Value, turn: Sequence[int]) -> str:
    """Whether a whole slice is in the array, for each of the indices."""
    graph = step.graph
    indexed = step.params["dimension_numbers"].start_index_map
    wide = step.cast(indices.whole((*turn, indices.rank - 1)), np.int64)
    clipped = _clipped(step, x, indices, indexed, turn)
    same = step.cast(graph.node("Equal", wide, clipped), np.int32)
    return step.cast(graph.node("ReduceMin", same, graph.integers([-1]), keepdims=0), np.bool_)


def _filled(step: Step, found: str, inside: str, axes_of_slices: int) -> str:
    """The value that JAX fills with, in place of slices that leave the array."""
    filling = step.params["fill_value"]
    if filling is None:
        if step.dtype.kind == "f":
            filling = np.nan
        else:
            limits = np.iinfo(step.dtype)
            filling = limits.max if step.dtype.kind == "u" else limits.min
    graph, rank = step.graph, len(step.shape)
    if axes_of_slices:
        axes = graph.integers(range(rank - axes_of_slices, rank))
        inside = graph.node("Unsqueeze", inside, axes)
    return graph.node("Where", inside, found, graph.constant(np.array(filling, step.dtype)))


HANDLERS: dict[str, Handler] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
}
