"""Functions of single elements."""

from functools import partial

import numpy as np
from jax import lax

from nonlocal_jax.exporting.onnx.step import Handler, Step
from nonlocal_jax.exporting.onnx.values import Value, common_order, common_thin


def apply(step: Step, operator: str, *inputs: Value, **attributes: object) -> Value:
    """An operator on arrays of one shape, and on scalars."""
    rank = len(step.shape)
    order = common_order(inputs, rank)
    names = [value.ordered(order) if value.rank else value.ordered() for value in inputs]
    made = step.graph.node(operator, *names, **attributes)
    return step.result(made, order=order, thin=common_thin(inputs, step.shape))


def _named(operator: str) -> Handler:
    return lambda step, *inputs: apply(step, operator, *inputs)


def _same(step: Step, x: Value) -> Value:
    """An operation that only a compiler or a derivative cares about."""
    return x


def _same_all(step: Step, *inputs: Value) -> list[Value]:
    return list(inputs)


def _then(step: Step, operator: str, x: Value) -> Value:
    """A further operator on a result."""
    return step.result(step.graph.node(operator, x.name), order=x.order, thin=x.thin)


def _add(step: Step, x: Value, y: Value) -> Value:
    """A sum. max(y, -x) + x is written as the ReLU that it is: see ops/residual.py."""
    for total, other in ((x, y), (y, x)):
        rest = _larger_than_minus(step, total, other)
        if rest is not None and total.order == other.order:
            made = step.graph.node("Relu", step.graph.node("Add", rest, other.name))
            return step.result(made, order=other.order, thin=total.thin & other.thin)
    return apply(step, "Add", x, y)


def _larger_than_minus(step: Step, total: Value, x: Value) -> str | None:
    """The y of total = max(y, -x)."""
    made = step.graph.maker(total.name)
    if made is None or made.op_type != "Max":
        return None
    for first, second in (made.input, made.input[::-1]):
        negative = step.graph.maker(second)
        if negative is not None and negative.op_type == "Neg" and negative.input[0] == x.name:
            return str(first)
    return None


def _max(step: Step, x: Value, y: Value) -> Value:
    for value, other in ((x, y), (y, x)):
        is_zero = other.array is not None and not np.any(other.array)
        if is_zero and value.array is None and np.issubdtype(step.dtype, np.floating):
            return apply(step, "Relu", value)
    return apply(step, "Max", x, y)


def _compare(operator: str, step: Step, x: Value, y: Value) -> Value:
    """Comparisons, for which ONNX Runtime has no kernels in small integers."""
    small = (np.uint8, np.int8, np.int16)
    inputs = [step.converted(v, np.int32) if v.dtype in small else v for v in (x, y)]
    if operator == "NotEqual":
        return _then(step, "Not", apply(step, "Equal", *inputs))
    return apply(step, operator, *inputs)


def _select(step: Step, which: Value, *cases: Value) -> Value:
    if len(cases) != 2 or which.dtype != np.bool_:
        raise step.refuse("between more than two arrays")
    if step.dtype == np.bool_:  # ONNX Runtime has no Where for them
        first = apply(step, "And", apply(step, "Not", which), cases[0])
        return apply(step, "Or", first, apply(step, "And", which, cases[1]))
    return apply(step, "Where", which, cases[1], cases[0])


def _clamp(step: Step, least: Value, x: Value, most: Value) -> Value:
    if least.rank or most.rank:
        raise step.refuse("with bounds that are arrays")
    larger = step.graph.node("Max", x.ordered(x.order), least.ordered())
    made = step.graph.node("Min", larger, most.ordered())
    return step.result(made, order=x.order, thin=x.thin)


def _round(step: Step, x: Value) -> Value:
    """ONNX rounds halves to even."""
    if step.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise step.refuse("halves away from zero")
    return apply(step, "Round", x)


def _integer_pow(step: Step, x: Value) -> Value:
    power = step.params["y"]
    if power == 2:
        return apply(step, "Mul", x, x)
    if power == -1 and np.issubdtype(step.dtype, np.floating):
        return apply(step, "Reciprocal", x)
    return apply(step, "Pow", x, step.constant(np.array(power, step.dtype)))


def _rsqrt(step: Step, x: Value) -> Value:
    return _then(step, "Reciprocal", apply(step, "Sqrt", x))


def _is_finite(step: Step, x: Value) -> Value:
    """x - x is 0, and NaN for infinities and NaN."""
    difference = step.graph.node("Sub", x.ordered(x.order), x.ordered(x.order))
    zero = step.graph.constant(np.zeros((), x.dtype))
    return step.result(step.graph.node("Equal", difference, zero), order=x.order, thin=x.thin)


def _remainder(step: Step, x: Value, y: Value) -> Value:
    """With the sign of x, as in C."""
    return apply(step, "Mod", x, y, fmod=1)


def _logical(on_bools: str, on_integers: str, step: Step, *inputs: Value) -> Value:
    return apply(step, on_bools if step.dtype == np.bool_ else on_integers, *inputs)


def _shift_right(step: Step, x: Value, places: Value) -> Value:
    """Division by a power of two, rounded down; ONNX shifts unsigned numbers alone."""
    divisor = _power_of_two(step, places)
    rest = apply(step, "Mod", x, divisor)
    return apply(step, "Div", apply(step, "Sub", x, rest), divisor)


def _shift_left(step: Step, x: Value, places: Value) -> Value:
    return apply(step, "Mul", x, _power_of_two(step, places))


def _power_of_two(step: Step, places: Value) -> Value:
    if places.array is not None:
        return step.constant(np.left_shift(1, places.array, dtype=places.dtype), places.shape)
    return apply(step, "Pow", step.constant(np.array(2, places.dtype)), places)


def _dimension(step: Step) -> Value:
    return step.result(step.cast(step.dimensions.scalar(step.params["dim"]), step.dtype))


_NAMES = {
    "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "min": "Min",
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil",
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid",
    "erf": "Erf", "sin": "Sin", "cos": "Cos",
}  # fmt: skip
_COMPARISONS = {
    "eq": "Equal", "ne": "NotEqual", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual",
}  # fmt: skip
_SAME = ("copy", "copy_p", "stop_gradient", "sharding_constraint", "name", "pbroadcast")

HANDLERS: dict[str, Handler] = {
    **{name: _named(operator) for name, operator in _NAMES.items()},
    **{name: partial(_compare, operator) for name, operator in _COMPARISONS.items()},
    **dict.fromkeys(_SAME, _same),
    "optimization_barrier": _same_all,
    "add": _add,
    "add_any": _add,
    "max": _max,
    "select_n": _select,
    "clamp": _clamp,
    "convert_element_type": lambda step, x: step.converted(x, step.dtype),
    "round": _round,
    "integer_pow": _integer_pow,
    "square": lambda step, x: apply(step, "Mul", x, x),
    "rsqrt": _rsqrt,
    "is_finite": _is_finite,
    "rem": _remainder,
    "and": partial(_logical, "And", "BitwiseAnd"),
    "or": partial(_logical, "Or", "BitwiseOr"),
    "xor": partial(_logical, "Xor", "BitwiseXor"),
    "not": partial(_logical, "Not", "BitwiseNot"),
    "shift_right_arithmetic": _shift_right,
    "shift_left": _shift_left,
    "dim_as_value": _dimension,
}
