"""Images of different sizes in one array: what is image, and what is padding.

A batch is padded at the bottom and on the right; `valid` holds each image's own (height, width).
The same two numbers follow the feature maps down the network, halved wherever it strides.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Valid = Int[Array, "n 2"]


def halve(valid: Valid | None) -> Valid | None:
    """Sizes after a stride of 2, rounding up, as padding by half a window makes it."""
    return None if valid is None else (valid + 1) // 2


def valid_mask(valid: Valid, height: int, width: int) -> Bool[Array, "n {height} {width} 1"]:
    """True inside each image, False in its padding."""
    rows = jnp.arange(height)[None, :, None, None] < valid[:, 0, None, None, None]
    columns = jnp.arange(width)[None, None, :, None] < valid[:, 1, None, None, None]
    return rows & columns


def zero_outside(x: Float[Array, "n h w c"], valid: Valid | None) -> Float[Array, "n h w c"]:
    """`x` with zeros in the padding, which is what a convolution sees beyond an image's border."""
    if valid is None:
        return x
    mask = valid_mask(valid, x.shape[1], x.shape[2])
    return jnp.where(mask, x, jnp.zeros((), x.dtype))
