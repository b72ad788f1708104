"""OpenCV's bilinear resizing of bytes, bit for bit, as an operation on the device.

OpenCV holds factors as multiples of 1/2048, and sums as integers. It computes a position in float64
and rounds it to float32, whose steps are up to half a factor's wide. Devices have no float64. So
positions are quotients of integers here, and the rounding is a comparison of integers. It is the
same for images of up to 8192 pixels a side.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from nonlocal_jax.ops.dims import Dim

ONE = 2048  # a factor of 1
FLOAT32_BITS = 12  # from a float32 of 1/2 to 1, in units of 1 / ONE: its steps are 2^-12

Places = Int[Array, "length"]


def resize_bytes(
    images: UInt8[Array, "n h w c"], height: Dim, width: Dim
) -> UInt8[Array, "n _ _ c"]:
    """What `inputs.transforms.resize_image` makes of each image."""
    left, factor = _places(images.shape[2], width)
    inside = (left >= 0) & (left < images.shape[2] - 1)
    factor = jnp.where(inside, factor, 0)[:, None]
    wide = images.astype(jnp.int32)
    rows = (_take(wide, left, 2) * (ONE - factor) + _take(wide, left + 1, 2) * factor) >> 4
    top, factor = _places(images.shape[1], height)
    factor = factor[:, None, None]
    above, below = _take(rows, top, 1) * (ONE - factor), _take(rows, top + 1, 1) * factor
    return (((above >> 16) + (below >> 16) + 2) >> 2).astype(jnp.uint8)


def _take(x: Int[Array, "n _ _ c"], index: Places, axis: int) -> Int[Array, "n _ _ c"]:
    """Rows or columns; beyond the border, those at the border."""
    return jnp.take(x, jnp.clip(index, 0, x.shape[axis] - 1), axis=axis)


def _places(source: Dim, target: Dim) -> tuple[Places, Places]:
    """The pixel before the position of each target, and the factor of the one after it.

    The position of target i is (i + 1/2) source / target - 1/2.
    """
    number = jnp.arange(target, dtype=jnp.int32)
    source, target = (jnp.asarray(size, jnp.int32) for size in (source, target))
    numerator = (2 * number + 1) * source - target
    place = numerator // (2 * target)
    units = (numerator - place * 2 * target) * (ONE // 2)
    factor = units // target
    rest = 2 * (units - factor * target) - target  # compared with half a unit
    # How many steps of float32 a unit has, as a power of 2, at a position of 1 and more.
    steps = FLOAT32_BITS - _exponent(place)
    steps = jnp.where((place > 0) & (steps > 0), steps, FLOAT32_BITS + 1)
    # A rest of less than half a step is rounded away; then, as at an exact half, the even one is
    # next. If there are two steps, a rest of half a step is not rounded to the half.
    distance = jnp.abs(rest) << steps
    to_half = jnp.where(steps == 1, distance < target, distance <= target)
    return place, factor + jnp.where(to_half, factor & 1, (rest > 0).astype(jnp.int32))


def _exponent(x: Places) -> Places:
    """floor(log2(x)), for x of 1 to 8191."""
    powers = 2 ** jnp.arange(1, FLOAT32_BITS + 1, dtype=jnp.int32)
    return jnp.sum(x[:, None] >= powers, axis=1, dtype=jnp.int32)
