"""Loops and branches, as ONNX's Loop and If. Their bodies read what is around them by its name."""

from collections.abc import Sequence

import numpy as np

from nonlocal_jax.exporting.onnx.graph import Graph
from nonlocal_jax.exporting.onnx.operations import filling
from nonlocal_jax.exporting.onnx.operations.shapes import LAST
from nonlocal_jax.exporting.onnx.step import Handler, Step, value_info
from nonlocal_jax.exporting.onnx.values import Value

ENDLESS = ""  # a loop without a number of turns


def _scan(step: Step, *inputs: Value) -> list[Value]:
    """A loop over the first axis of arrays; it stacks what its body returns."""
    params, graph = step.params, step.graph
    fixed, start, arrays = _parts_of_scan(step, inputs)
    body = Graph(graph)
    turn, going = body.new_name("turn"), body.new_name("going")
    place = turn
    if params["reverse"]:
        last = step.dimensions.scalar(params["length"] - 1)
        place = body.node("Sub", last, turn)
    state = [_parameter(step, body, value) for value in start]
    parts = [_part(body, value, place) for value in arrays]
    results = step.inline(body, params["jaxpr"], [*fixed, *state, *parts])
    made = _loop(
        step,
        body,
        (step.dimensions.scalar(params["length"]), step.graph.constant(np.array(True))),
        (turn, going),
        start,
        state,
        results,
        body.node("Identity", going),
    )
    if params["reverse"]:
        stacked = (_turned(graph, name) for name in made[len(start) :])
        made = [*made[: len(start)], *stacked]
    return [step.result(name, index=index) for index, name in enumerate(made)]


def _parts_of_scan(
    step: Step, inputs: Sequence[Value]
) -> tuple[Sequence[Value], Sequence[Value], Sequence[Value]]:
    """What all turns read, what one turn leaves to the next, and the arrays that are cut.

    The names of the parameters that tell this change between versions of JAX. The body's arrays
    tell it as well: it sees one axis less of the arrays that are cut and stacked.
    """
    program = step.params["jaxpr"]
    body = getattr(program, "jaxpr", program)
    cut = sum(v.rank > len(b.aval.shape) for v, b in zip(inputs, body.invars, strict=True))
    carried = sum(
        len(shape) == len(b.aval.shape) for shape, b in zip(step.shapes, body.outvars, strict=True)
    )
    first_cut = len(inputs) - cut
    first_carried = first_cut - carried
    return inputs[:first_carried], inputs[first_carried:first_cut], inputs[first_cut:]


def _part(body: Graph, array: Value, place: str) -> Value:
    """One element of an array along its first axis."""
    order = tuple(axis - 1 for axis in array.order if axis)
    thin = frozenset(axis - 1 for axis in array.thin if axis)
    name = array.whole(array.order, only=(0,))
    name = body.node("Gather", name, place, axis=array.axis(0))
    return Value(body, array.dimensions, name, array.shape[1:], array.dtype, order, thin)


def _turned(graph: Graph, name: str) -> str:
    return graph.node("Slice", name, *map(graph.integers, ([-1], [-LAST], [0], [-1])))


def _while(step: Step, *inputs: Value) -> list[Value]:
    """A loop. What it fills slice by slice is stacked and joined after it, not copied each turn."""
    params = step.params
    of_condition, of_body = params["cond_nconsts"], params["body_nconsts"]
    before, fixed = inputs[:of_condition], inputs[of_condition : of_condition + of_body]
    start = inputs[of_condition + of_body :]
    program, filled = filling.find(params["body_jaxpr"], of_body, start)
    body = Graph(step.graph)
    turn, going = body.new_name("turn"), body.new_name("going")
    state = [v if i in filled else _parameter(step, body, v) for i, v in enumerate(start)]
    (goes,) = step.inline(step.graph, params["cond_jaxpr"], [*before, *start])
    results = step.inline(body, program, [*fixed, *state])
    (goes_on,) = step.inline(body, params["cond_jaxpr"], [*before, *results])
    carried = [index for index in range(len(start)) if index not in filled]
    made = _loop(
        step,
        body,
        (ENDLESS, goes.whole()),
        (turn, going),
        [start[index] for index in carried],
        [state[index] for index in carried],
        [results[index] for index in (*carried, *filled)],
        goes_on.whole(),
    )
    found = dict(zip((*carried, *filled), made, strict=True))
    for index, axis in filled.items():
        found[index] = filling.join(step, found[index], start[index], axis)
    return [step.result(found[index], index=index) for index in range(len(start))]


def _parameter(step: Step, body: Graph, value: Value) -> Value:
    """What a body is given of one turn's results."""
    name = body.new_name("state")
    return Value(body, step.dimensions, name, value.shape, value.dtype, tuple(range(value.rank)))


def _loop(
    step: Step,
    body: Graph,
    bounds: tuple[str, str],
    parameters: tuple[str, str],
    start: Sequence[Value],
    state: Sequence[Value],
    results: Sequence[Value],
    goes_on: str,
) -> list[str]:
    """The Loop of a body: `bounds` are its number of turns and whether it starts."""
    turn, going = parameters
    given = [
        value_info(turn, np.dtype(np.int64), ()),
        value_info(going, np.dtype(np.bool_), ()),
        *(value_info(value.name, value.dtype, value.shape) for value in state),
    ]
    returned = [value_info(_own(body, goes_on), np.dtype(np.bool_), ())]
    for value in results:
        name = _own(body, value.whole())
        returned.append(value_info(name, value.dtype, value.shape))
    return list(
        step.graph.nodes_of(
            "Loop",
            [*bounds, *(value.whole() for value in start)],
            len(results),
            body=body.body("turns", given, returned),
        )
    )


def _own(body: Graph, name: str) -> str:
    """A new name in a body for what it returns, which may have been computed outside of it."""
    made = body.new_name("Identity")
    body.copy(name, made)
    return made


def _cond(step: Step, which: Value, *inputs: Value) -> list[Value]:
    branches = step.params["branches"]
    if which.array is not None:
        chosen = min(max(int(which.array), 0), len(branches) - 1)
        return step.inline(step.graph, branches[chosen], inputs)
    return [
        step.result(name, index=index)
        for index, name in enumerate(_branch(step, step.graph, which, 0, inputs))
    ]


def _branch(
    step: Step, graph: Graph, which: Value, first: int, inputs: Sequence[Value]
) -> tuple[str, ...]:
    """The results of branch `first` or of a later one, computed in `graph`."""
    branches = step.params["branches"]
    if first == len(branches) - 1:
        return tuple(v.whole() for v in step.inline(graph, branches[first], inputs))
    this, others = Graph(graph), Graph(graph)
    results = tuple(v.whole() for v in step.inline(this, branches[first], inputs))
    rest = _branch(step, others, which, first + 1, inputs)
    bodies = []
    for body, names in ((this, results), (others, rest)):
        returned = [
            value_info(_own(body, name), dtype, shape)
            for name, dtype, shape in zip(names, step.dtypes, step.shapes, strict=True)
        ]
        bodies.append(body.body("branch", [], returned))
    index = graph.constant(np.array(first, which.dtype))
    here = graph.node("LessOrEqual", which.whole(), index)
    return graph.nodes_of(
        "If", [here], len(step.shapes), then_branch=bodies[0], else_branch=bodies[1]
    )


def _platform(step: Step) -> Value:
    """The branch of all platforms that have none of their own."""
    platforms = step.params["platforms"]
    default = next((i for i, names in enumerate(platforms) if names is None), None)
    if default is None:
        default = next((i for i, names in enumerate(platforms) if "cpu" in names), len(platforms))
    return step.constant(np.array(default, step.dtype))


HANDLERS: dict[str, Handler] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "platform_index": _platform,
}
