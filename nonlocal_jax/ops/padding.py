"""Images of different sizes in one array, padded at the bottom and on the right.

`valid` holds the height and width of each image. In a feature map they are divided by the stride.
"""

from typing import overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.ops.dims import Dim

Valid = Int[Array, "n 2"]


@overload
def at_stride(valid: Valid, stride: int) -> Valid: ...
@overload
def at_stride(valid: None, stride: int) -> None: ...
@overload
def at_stride(valid: Valid | None, stride: int) -> Valid | None: ...
def at_stride(valid: Valid | None, stride: int) -> Valid | None:
    """Sizes in a feature map with a pixel for every `stride` pixels: rounded up.

    That is what layers make that pad by half a window.
    """
    if valid is None or stride == 1:
        return valid
    return (valid + stride - 1) // stride


def valid_mask(valid: Int[Array, "n ndim"], space: tuple[Dim, ...]) -> Bool[Array, "n *space 1"]:
    """True inside each image, False in its padding; in any number of dimensions."""
    inside = jnp.ones((valid.shape[0], *space), bool)
    for axis in range(len(space)):
        coordinate = jax.lax.broadcasted_iota(valid.dtype, (1, *space), axis + 1)
        inside &= coordinate < valid[:, axis].reshape(-1, *[1] * len(space))
    return inside[..., None]


def zero_outside(
    x: Float[Array, "n *space c"], valid: Int[Array, "n ndim"] | None
) -> Float[Array, "n *space c"]:
    """`x` with zeros in the padding, as a convolution pads an image at its border."""
    if valid is None:
        return x
    return jnp.where(valid_mask(valid, x.shape[1:-1]), x, jnp.zeros((), x.dtype))
