"""Batch normalisation by the batch's own statistics, with the gradient written out.

Differentiated step by step, the mean and the variance each send a gradient of their own back over
the whole array. Together they are two sums, those that the bias and the scale need anyway.
"""

import os
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.ops.dtypes import float32_or_wider

Inputs = Float[Array, "*batch c"]
PerChannel = Float[Array, "c"]
Residuals = tuple[Inputs, PerChannel, PerChannel, PerChannel]


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
    axes = tuple(range(x.ndim - 1))
    shifted = float32_or_wider(x) - shift
    mean, square = jnp.mean(shifted, axes), jnp.mean(jnp.square(shifted), axes)
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0)


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
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    normalized = (float32_or_wider(x) - mean) * inverse
    of_bias = jnp.sum(grad, axes)
    of_scale = jnp.sum(grad * normalized, axes)
    of_x = (inverse * scale) * (grad - of_bias / count - normalized * (of_scale / count))
    return of_x.astype(x.dtype), None, None, of_scale, of_bias


normalize_batch.defvjp(_forward, _backward)
