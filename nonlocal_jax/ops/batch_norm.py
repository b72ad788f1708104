"""Batch normalisation by the statistics of the batch, with its gradient in closed form.

JAX's derivative adds a gradient over the whole array for the mean and another one for the variance.
In closed form both are two sums, which the gradients of bias and scale need anyway.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nonlocal_jax.ops import column_sums_kernel
from nonlocal_jax.ops.dtypes import float32_or_wider

Inputs = Float[Array, "*batch c"]
PerChannel = Float[Array, "c"]
Residuals = tuple[Inputs, PerChannel, PerChannel, PerChannel]


TOGETHER = os.environ.get("GPU_SUMS", "together") == "together"
STATISTICS = os.environ.get("GPU_STATISTICS", "xla")
PASSES = int(os.environ.get("GPU_PASSES", "1"))  # over the array, for its statistics, on a GPU


def batch_statistics(x: Inputs, shift: PerChannel) -> tuple[PerChannel, PerChannel]:
    """Mean and variance over all axes but the last, float32 or wider.

    A GPU takes one pass over `x`, whose time is that of reading it; others take two.

    Args:
      x: of any float dtype.
      shift: something near the mean, such as the running one; it changes rounding only.
    """
    one_pass = one_pass_statistics if PASSES == 1 else _two_passes
    mean, var = lax.platform_dependent(x, shift, cuda=one_pass, default=_two_passes)
    return mean, var


def one_pass_statistics(x: Inputs, shift: PerChannel) -> tuple[PerChannel, PerChannel]:
    """Mean and variance from the sums of x - shift and of its square.

    Their difference keeps as many digits as `shift` is near the mean: where that is d standard
    deviations away, the variance's relative error is some d^2 roundings.
    """

    def terms(x: Inputs, shift: PerChannel) -> tuple[Inputs, Inputs]:
        shifted = float32_or_wider(x) - shift
        return shifted, jnp.square(shifted)

    count = x.size // x.shape[-1]
    if STATISTICS == "kernel" and column_sums_kernel.kernel_supports(x):
        sums = column_sums_kernel.column_sums(terms, [x], [shift])
    else:
        sums = _sums(*terms(x, shift))
    mean, square = (total / count for total in sums)
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


def _sums(first: Inputs, second: Inputs) -> tuple[PerChannel, PerChannel]:
    """Both sums over all axes but the last; on a GPU as one reduction, which XLA can't take apart."""

    def together(first: Inputs, second: Inputs) -> tuple[PerChannel, PerChannel]:
        zero = jnp.zeros((), first.dtype)
        one, two = lax.reduce((first, second), (zero, zero), _add_both, axes)
        return one, two

    def apart(first: Inputs, second: Inputs) -> tuple[PerChannel, PerChannel]:
        return jnp.sum(first, axes), jnp.sum(second, axes)

    axes = tuple(range(first.ndim - 1))
    on_gpu = together if TOGETHER else apart
    one, two = lax.platform_dependent(first, second, cuda=on_gpu, default=apart)
    return one, two


def _add_both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]


def _two_passes(x: Inputs, _: PerChannel) -> tuple[PerChannel, PerChannel]:
    x = float32_or_wider(x)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.mean(jnp.square(x - mean), axes)


@jax.custom_vjp
def normalize_batch(
    x: Inputs, mean: PerChannel, inverse: PerChannel, scale: PerChannel, bias: PerChannel
) -> Inputs:
    """scale (x - mean) inverse + bias, differentiated as if it computed `mean` and `inverse`.

    Args:
      x: of any float dtype.
      mean: of `x` over all axes but the last, float32 or wider, as all that follow.
      inverse: 1 / sqrt(variance + epsilon), over the same axes.
      scale, bias: parameters.

    Returns:
      an array in float32 or wider. Its gradient by `x` includes those through `mean` and `inverse`,
      which have no gradient of their own.
    """
    return (float32_or_wider(x) - mean) * (inverse * scale) + bias


def _forward(
    x: Inputs, mean: PerChannel, inverse: PerChannel, scale: PerChannel, bias: PerChannel
) -> tuple[Inputs, Residuals]:
    return normalize_batch(x, mean, inverse, scale, bias), (x, mean, inverse, scale)


def _backward(
    residuals: Residuals, grad: Inputs
) -> tuple[Inputs, None, None, PerChannel, PerChannel]:
    x, mean, inverse, scale = residuals
    count = x.size // x.shape[-1]
    normalized = (float32_or_wider(x) - mean) * inverse
    of_bias, of_scale = _sums(grad, grad * normalized)
    of_x = (inverse * scale) * (grad - of_bias / count - normalized * (of_scale / count))
    return of_x.astype(x.dtype), None, None, of_scale, of_bias


normalize_batch.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalize_batch_relu(
    x: Inputs,
    mean: PerChannel,
    inverse: PerChannel,
    scale: PerChannel,
    bias: PerChannel,
    dtype: DTypeLike,
) -> Inputs:
    """max(normalize_batch(...), 0) in `dtype`, for a GPU.

    The gradient needs `x` alone: where the result is 0 is computed again, in both of its passes.
    """
    y = normalize_batch(x, mean, inverse, scale, bias).astype(dtype)
    return jnp.maximum(y, jnp.zeros((), dtype))


def _relu_forward(
    x: Inputs,
    mean: PerChannel,
    inverse: PerChannel,
    scale: PerChannel,
    bias: PerChannel,
    dtype: DTypeLike,
) -> tuple[Inputs, tuple[jax.Array, ...]]:
    y = normalize_batch_relu(x, mean, inverse, scale, bias, dtype)
    return y, (x, mean, inverse, scale, bias)


def _relu_backward(
    dtype: DTypeLike, residuals: tuple[jax.Array, ...], grad: Inputs
) -> tuple[Inputs, None, None, PerChannel, PerChannel]:
    x, mean, inverse, scale, bias = residuals
    count = x.size // x.shape[-1]

    def gradient_and_normalized(x: Inputs, grad: Inputs) -> tuple[Inputs, Inputs]:
        y = normalize_batch(x, mean, inverse, scale, bias).astype(dtype)
        grad = jnp.where(y > 0, float32_or_wider(grad), jnp.zeros((), mean.dtype))
        return grad, (float32_or_wider(x) - mean) * inverse

    def terms(x: Inputs, grad: Inputs, *vectors: PerChannel) -> tuple[Inputs, Inputs]:
        mean, inverse, scale, bias = vectors
        normalized = (float32_or_wider(x) - mean) * inverse
        y = (float32_or_wider(x) - mean) * (inverse * scale) + bias
        of_y = jnp.where(y > 0, float32_or_wider(grad), jnp.zeros((), mean.dtype))
        return of_y, of_y * normalized

    if STATISTICS == "kernel" and column_sums_kernel.kernel_supports(x):
        vectors = [mean, inverse, scale, bias]
        of_bias, of_scale = column_sums_kernel.column_sums(terms, [x, grad], vectors)
    else:
        of_y, normalized = gradient_and_normalized(x, grad)
        of_bias, of_scale = _sums(of_y, of_y * normalized)
    # Behind the barrier it is computed again: kept, it would be written and read once more.
    x, grad, of_bias, of_scale = lax.optimization_barrier((x, grad, of_bias, of_scale))
    of_y, normalized = gradient_and_normalized(x, grad)
    of_x = (inverse * scale) * (of_y - of_bias / count - normalized * (of_scale / count))
    return of_x.astype(x.dtype), None, None, of_scale, of_bias


normalize_batch_relu.defvjp(_relu_forward, _relu_backward)
