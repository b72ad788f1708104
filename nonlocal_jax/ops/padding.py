"""Images of different sizes in one array: what is image, and what is padding.

A batch is padded at the bottom and on the right; `valid` holds each image's own (height, width).
The same two numbers follow the feature maps down the network, halved wherever it strides.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Valid = Int[Array, "n 2"]


def at_stride(valid: Valid, stride: int) -> Valid:
    """Sizes in a feature map with a pixel for every `stride` pixels: rounded up."""
    return -(-jnp.asarray(valid) // stride)


def halve(valid: Valid | None) -> Valid | None:
    """Sizes after a stride of 2, rounding up, as padding by half a window makes it."""
    return None if valid is None else (valid + 1) // 2


def valid_mask(valid: Int[Array, "n ndim"], space: tuple[int, ...]) -> Bool[Array, "n *space 1"]:
    """True inside each image, False in its padding; in any number of dimensions."""
    inside = jnp.ones((valid.shape[0], *space), bool)
    for axis in range(len(space)):
        coordinate = jax.lax.broadcasted_iota(valid.dtype, (1, *space), axis + 1)
        inside &= coordinate < valid[:, axis].reshape(-1, *[1] * len(space))
    return inside[..., None]


def zero_outside(
    x: Float[Array, "n *space c"], valid: Int[Array, "n ndim"] | None
) -> Float[Array, "n *space c"]:
    """`x` with zeros in the padding, which is what a convolution sees beyond an image's border."""
    if valid is None:
        return x
    return jnp.where(valid_mask(valid, x.shape[1:-1]), x, jnp.zeros((), x.dtype))
