"""The sum and the ReLU at the end of a residual block (arXiv 1512.03385), in little memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def add_relu(y: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(y + x, 0), exactly. The gradient at 0 is 0, as in PyTorch.

    The last operation is a sum, because XLA's CPU compiler computes a ReLU again wherever it is
    read: the sum of the next block would repeat this one and all before it, and keep their terms in
    memory.
    """
    return jnp.maximum(y, -x) + x


@add_relu.defjvp
def _derivative(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    result = add_relu(*primals)
    tangent = tangents[0] + tangents[1]
    return result, jnp.where(result > 0, tangent, jnp.zeros_like(tangent))


def add_relu_without_gradient(
    y: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The same for inference: on a GPU in the form that cuDNN takes into a convolution."""

    def plain(y: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.maximum(y + x, jnp.zeros((), y.dtype))

    z: Array = jax.lax.platform_dependent(y, x, cuda=plain, default=add_relu)
    return z
