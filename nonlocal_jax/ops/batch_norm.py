"""Batch normalisation by the statistics of the batch, with its gradient in closed form.

JAX's derivative adds a gradient over the whole array for the mean and another one for the variance.
In closed form both are two sums, which the gradients of bias and scale need anyway.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nonlocal_jax.ops.dtypes import float32_or_wider

Inputs = Float[Array, "*batch c"]
PerChannel = Float[Array, "c"]
Residuals = tuple[Inputs, PerChannel, PerChannel, PerChannel]


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
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    normalized = (float32_or_wider(x) - mean) * inverse
    of_bias = jnp.sum(grad, axes)
    of_scale = jnp.sum(grad * normalized, axes)
    of_x = (inverse * scale) * (grad - of_bias / count - normalized * (of_scale / count))
    return of_x.astype(x.dtype), None, None, of_scale, of_bias


normalize_batch.defvjp(_forward, _backward)
