"""Batch normalisation by the batch's own statistics, with the gradient written out.

Differentiated step by step, the mean and the variance each send a gradient of their own back over
the whole array. Together they are two sums, those that the bias and the scale need anyway.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nonlocal_jax.ops.dtypes import float32_or_wider

Inputs = Float[Array, "*batch c"]
PerChannel = Float[Array, "c"]
Residuals = tuple[Inputs, PerChannel, PerChannel, PerChannel]


def batch_statistics(x: Inputs, shift: PerChannel) -> tuple[PerChannel, PerChannel]:
    """Mean and variance over all axes but the last, float32 or wider.

    A GPU takes one pass over `x`, whose time is that of reading it; others take two.

    Args:
      x: of any float dtype.
      shift: something near the mean, such as the running one; it changes rounding only.
    """
    mean, var = lax.platform_dependent(x, shift, cuda=one_pass_statistics, default=_two_passes)
    return mean, var


def one_pass_statistics(x: Inputs, shift: PerChannel) -> tuple[PerChannel, PerChannel]:
    """Mean and variance from the sums of x - shift and of its square.

    The variance is a difference of two terms, and the nearer `shift` is to the mean, the smaller
    they are. With d standard deviations between them, its relative error is some d^2 roundings.
    """
    shifted = float32_or_wider(x) - shift
    count = x.size // x.shape[-1]
    sums = _two_sums(shifted, jnp.square(shifted))
    mean, square = (total / count for total in sums)
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


def _two_sums(first: Inputs, second: Inputs) -> tuple[PerChannel, PerChannel]:
    """Both sums over all axes but the last; XLA takes them in one pass."""
    axes = tuple(range(first.ndim - 1))
    return jnp.sum(first, axes), jnp.sum(second, axes)


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
      float32 or wider. Its gradient for `x` includes what goes through `mean` and `inverse`, which
      have none themselves.
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
    of_bias, of_scale = _two_sums(grad, grad * normalized)
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
    """max(normalize_batch(...), 0) in `dtype`.

    For its gradient only `x` and the vectors are kept. Which results are 0 is computed again.
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
    x, *vectors = residuals
    _, inverse, scale, _ = vectors
    count = x.size // x.shape[-1]
    of_bias, of_scale = _two_sums(*_relu_terms(x, grad, *vectors))
    # The barrier makes XLA compute the terms again. It would write them, and read them once more.
    x, grad, of_bias, of_scale = lax.platform_dependent(
        *(x, grad, of_bias, of_scale),
        cuda=lambda *arrays: lax.optimization_barrier(arrays),
        default=lambda *arrays: arrays,
    )
    of_y, _ = _relu_terms(x, grad, *vectors)
    normalized = (float32_or_wider(x) - vectors[0]) * inverse
    of_x = (inverse * scale) * (of_y - of_bias / count - normalized * (of_scale / count))
    return of_x.astype(x.dtype), None, None, of_scale, of_bias


def _relu_terms(
    x: Inputs,
    grad: Inputs,
    mean: PerChannel,
    inverse: PerChannel,
    scale: PerChannel,
    bias: PerChannel,
) -> tuple[Inputs, Inputs]:
    """The gradient of what the ReLU is applied to, and that times what is normalised."""
    centred = float32_or_wider(x) - mean
    positive = centred * (inverse * scale) + bias > 0
    of_y = jnp.where(positive, float32_or_wider(grad), jnp.zeros((), centred.dtype))
    return of_y, of_y * (centred * inverse)


normalize_batch_relu.defvjp(_relu_forward, _relu_backward)
