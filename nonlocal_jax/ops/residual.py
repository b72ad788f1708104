"""The sum and the ReLU that close a residual block (arXiv 1512.03385), for little memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def add_relu(y: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(y + x, 0), exactly; the gradient at 0 is 0, as PyTorch's.

    The sum comes last, because XLA's CPU compiler computes a ReLU again wherever it is read: the
    next block's sum would repeat this one and all before it in the stage, and hold their terms. A
    GPU takes the plain form, which cuDNN computes at the end of a convolution.
    """

    def sum_last(y: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.maximum(y, -x) + x

    def plain(y: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.maximum(y + x, jnp.zeros((), y.dtype))

    return jax.lax.platform_dependent(y, x, cuda=plain, default=sum_last)


@add_relu.defjvp
def _derivative(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    result = add_relu(*primals)
    tangent = tangents[0] + tangents[1]
    return result, jnp.where(result > 0, tangent, jnp.zeros_like(tangent))
