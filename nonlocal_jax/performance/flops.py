"""Floating-point operations of a traced program: its convolutions and matrix products.

XLA's own count takes a loop for one pass, and leaves out the backward kernels of attention. Here a
loop counts as often as it runs, and a kernel as often as its grid has cells.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend import core


def count(jaxpr: core.Jaxpr) -> float:
    """Operations of the whole program, a multiplication and an addition are two."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = _shape(equation.invars[0])
        products = math.prod(shape[axis] for axis in contracted)
        return float(2 * math.prod(_shape(equation.outvars[0])) * products)
    if name == "cond":  # the most expensive branch, because one of them runs
        return max(count(branch.jaxpr) for branch in parameters["branches"])
    times = 1
    if name == "scan":
        times = parameters["length"]
    elif name == "shard_map":
        times = parameters["mesh"].size
    elif name == "pallas_call":
        times = math.prod(parameters["grid_mapping"].grid)
    return times * sum(count(inner) for inner in _inner(parameters))


def _shape(variable: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = variable.aval.shape
    return shape


def _inner(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The programs that an equation runs."""
    for name, value in parameters.items():
        if "jaxpr" in name and hasattr(value, "eqns"):
            yield value if isinstance(value, core.Jaxpr) else value.jaxpr


def _convolution(equation: core.JaxprEqn) -> float:
    """Products of real elements only: neither padding nor the zeros between dilated inputs."""
    p = equation.params
    numbers = p["dimension_numbers"]
    left, right = (_shape(v) for v in equation.invars)
    result = _shape(equation.outvars[0])
    pairs = 1.0
    for index in range(len(p["window_strides"])):
        pairs *= _pairs(
            left[numbers.lhs_spec[2 + index]],
            right[numbers.rhs_spec[2 + index]],
            result[numbers.out_spec[2 + index]],
            p["window_strides"][index],
            p["padding"][index],
            p["lhs_dilation"][index],
            p["rhs_dilation"][index],
        )
    images = result[numbers.out_spec[0]]
    channels = right[numbers.rhs_spec[0]] * right[numbers.rhs_spec[1]]
    return float(2 * images * channels * pairs)


def _pairs(
    length: int,
    window: int,
    outputs: int,
    stride: int,
    padding: Sequence[int],
    spread: int,
    dilation: int,
) -> int:
    """(output, window element) pairs along an axis that meet an element of the input."""
    place = np.arange(outputs)[:, None] * stride + np.arange(window)[None, :] * dilation
    place = place - padding[0]
    inside = (place >= 0) & (place <= (length - 1) * spread) & (place % spread == 0)
    return int(np.count_nonzero(inside))
