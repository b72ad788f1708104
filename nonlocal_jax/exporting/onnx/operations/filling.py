"""Arrays that a loop fills from the start, the same number of rows each turn: see ops/blocks.py.

ONNX has no operator that writes into an array: each turn would copy all of it. But its loops stack
what each turn returns. So the loop returns the rows alone, and they are joined after it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from nonlocal_jax.exporting.onnx.operations.shapes import LAST
from nonlocal_jax.exporting.onnx.step import Step
from nonlocal_jax.exporting.onnx.values import Value


def find(program: Any, constants: int, start: Sequence[Value]) -> tuple[Any, dict[int, int]]:
    """The arrays that the body of a loop fills, and a body that returns their rows instead.

    Args:
      program: the body, a jaxpr: constants and state to state.
      constants: how many.
      start: the state before the first turn.

    Returns:
      The body, and the axis along which it fills each of the arrays, by their places in the state.
    """
    jaxpr = getattr(program, "jaxpr", program)
    state = jaxpr.invars[constants:]
    updates, filled = {}, {}
    for index, (array, result) in enumerate(zip(state, jaxpr.outvars, strict=True)):
        reads = [e for e in jaxpr.eqns if any(variable is array for variable in e.invars)]
        if len(reads) != 1 or reads[0].outvars[0] is not result:
            continue
        axis = _filled_axis(jaxpr, state, start, reads[0])
        if axis is not None:
            updates[index], filled[index] = reads[0], axis
    if not filled:
        return program, {}
    changed = jaxpr.replace(
        eqns=[e for e in jaxpr.eqns if not any(e is update for update in updates.values())],
        outvars=[
            updates[index].invars[1] if index in filled else variable
            for index, variable in enumerate(jaxpr.outvars)
        ],
    )
    return program.replace(jaxpr=changed) if changed is not program else changed, filled


def join(step: Step, rows: str, start: Value, axis: int) -> str:
    """The filled array, from the rows of each turn, and what was there before the first one."""
    graph, rank = step.graph, start.rank
    turned = graph.node(
        "Transpose", rows, perm=[*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]
    )
    lengths = [-1 if other == axis else length for other, length in enumerate(start.shape)]
    joined = graph.node("Reshape", turned, step.dimensions.vector(lengths))
    written = graph.node("Shape", joined, start=axis, end=axis + 1)
    rest = graph.node(
        "Slice", start.whole(), written, graph.integers([LAST]), graph.integers([axis])
    )
    return graph.node("Concat", joined, rest, axis=axis)


def _filled_axis(
    jaxpr: Any, state: Sequence[Any], start: Sequence[Value], update: Any
) -> int | None:
    """The axis along which a step writes at 0, n, 2n, ... the n rows that a turn has computed."""
    if update.primitive.name != "dynamic_update_slice":
        return None
    array, rows, *places = update.invars
    shapes = zip(array.aval.shape, rows.aval.shape, strict=True)
    cut = [axis for axis, (whole, part) in enumerate(shapes) if whole != part]
    if len(cut) != 1:
        return None
    makers = {id(variable): e for e in jaxpr.eqns for variable in e.outvars}
    product = _not_negative(makers, places[cut[0]])
    if product is None or product.primitive.name != "mul":
        return None
    turn, factor = product.invars
    counts = isinstance(factor, core.Literal) and factor.val == rows.aval.shape[cut[0]]
    index = next((i for i, variable in enumerate(state) if variable is turn), None)
    if not counts or index is None or start[index].array is None or np.any(start[index].array):
        return None
    step: Any = makers.get(id(jaxpr.outvars[index]))
    adds_one = step is not None and step.primitive.name == "add" and step.invars[0] is turn
    return cut[0] if adds_one and getattr(step.invars[1], "val", None) == 1 else None


def _not_negative(makers: dict[int, Any], place: Any) -> Any:
    """What computes a place, before JAX counts negative ones from the end."""
    made = makers.get(id(place))
    if made is None or made.primitive.name != "select_n":
        return made
    return makers.get(id(made.invars[1]))
