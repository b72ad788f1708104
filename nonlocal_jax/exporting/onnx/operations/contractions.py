"""Convolutions and products of matrices."""

import math
from collections.abc import Sequence

import numpy as np

from nonlocal_jax.exporting.onnx.operations.shapes import reshape
from nonlocal_jax.exporting.onnx.step import Handler, Step
from nonlocal_jax.exporting.onnx.values import Value


def _convolve(step: Step, x: Value, kernel: Value) -> Value:
    """ONNX's images and kernels have their channels first; the result stays so."""
    params = step.params
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise step.refuse("transposed, or with groups of images")
    low_high = params["padding"]
    if not all(isinstance(side, int) and side >= 0 for pair in low_high for side in pair):
        raise step.refuse("with padding that is negative, or depends on the size of the image")
    numbers = params["dimension_numbers"]
    made = step.graph.node(
        "Conv",
        x.whole(numbers.lhs_spec),
        kernel.whole(numbers.rhs_spec),
        strides=list(params["window_strides"]),
        pads=[low for low, _ in low_high] + [high for _, high in low_high],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return step.result(_in_result_dtype(step, x, made), order=tuple(numbers.out_spec))


def _product(step: Step, x: Value, y: Value) -> Value:
    """A product of matrices, [batch..., M, K] x [batch..., K, N].

    Axes that a batch shares come first. Several others side by side become one.
    """
    (x_summed, y_summed), (x_batch, y_batch) = step.params["dimension_numbers"]
    if _is_one_by_one(x, y, x_summed, x_batch) and y.array is not None:
        matrix = y.array.T if y_summed == (0,) else y.array
        return _one_by_one(step, x, matrix, x_summed[0])
    x_free = [axis for axis in range(x.rank) if axis not in (*x_summed, *x_batch)]
    y_free = [axis for axis in range(y.rank) if axis not in (*y_summed, *y_batch)]
    left = _matrix(step, x, x_batch, x_free, x_summed)
    right = _matrix(step, y, y_batch, y_summed, y_free)
    made = step.graph.node("MatMul", left, right)
    if len(x_free) != 1 or len(y_free) != 1:
        made = reshape(step, made, step.shape)
    return step.result(_in_result_dtype(step, x, made))


def _matrix(
    step: Step, x: Value, batch: Sequence[int], rows: Sequence[int], columns: Sequence[int]
) -> str:
    name = x.whole((*batch, *rows, *columns))
    if len(rows) == len(columns) == 1:
        return name
    lengths = [x.shape[axis] for axis in batch]
    lengths += [math.prod(x.shape[axis] for axis in axes) for axes in (rows, columns)]
    return reshape(step, name, lengths)


def _is_one_by_one(x: Value, y: Value, summed: Sequence[int], batch: Sequence[int]) -> bool:
    """Whether this multiplies the channels of images, which come first, by a constant matrix."""
    channels_first = x.rank == 4 and len(summed) == 1 and x.axis(summed[0]) == 1
    return channels_first and not batch and y.rank == 2 and not y.thin


def _one_by_one(step: Step, x: Value, matrix: np.ndarray, summed: int) -> Value:
    """A 1x1 convolution by a matrix, [results, inputs]. The channels of JAX's result come last."""
    kernel = step.graph.constant(matrix[:, :, None, None])
    made = step.graph.node("Conv", x.whole(x.order), kernel)
    left = [axis for axis in range(4) if axis != summed]
    new = {**{axis: place for place, axis in enumerate(left)}, summed: 3}
    order = tuple(new[axis] for axis in x.order)
    return step.result(_in_result_dtype(step, x, made), order=order)


def _in_result_dtype(step: Step, x: Value, name: str) -> str:
    return name if x.dtype == step.dtype else step.cast(name, step.dtype)


HANDLERS: dict[str, Handler] = {"conv_general_dilated": _convolve, "dot_general": _product}
