"""Max-pooling of 3x3 windows with stride 2, and of pairs, with quick gradients.

XLA's own gradient scatters, one addition after the other in memory. Here each input reads the
windows that it may be the largest of: four at most. For a clip's 8 frames of 112 pixels and 64
channels, two cores take 17 ms, and 390 ms with XLA's. XLA's is used on TPUs, on CPUs where windows
are padded, and where the rows of an image are split over devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.ops.layout import splits_rows

Input = Float[Array, "n h w c"]
Output = Float[Array, "n h_out w_out c"]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Input, padding: int = 1) -> Output:
    """The largest of each 3x3 window; h_out = ceil(h / 2), without padding floor((h - 1) / 2).

    `padding` is 1 or 0. The gradient goes to the first of equals.
    """
    return _pool(x, padding)


def _pool(x: Input, padding: int) -> Output:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    pooled: Array = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)
    return pooled


def _forward(x: Input, padding: int) -> tuple[Output, Input]:
    return max_pool(x, padding), x


def _backward(padding: int, x: Input, grad: Output) -> tuple[Input]:
    def scattered(x: Input, grad: Output) -> Input:
        gradient: Array = jax.vjp(lambda x: _pool(x, padding), x)[1](grad)[0]
        return gradient

    if padding and splits_rows():  # XLA's partitioner ends in a crash for the gathered form
        return (scattered(x, grad),)
    gathered = partial(gathered_gradient, padding=padding)
    on_cpu = scattered if padding else gathered
    gradient = lax.platform_dependent(x, grad, cpu=on_cpu, cuda=gathered, default=scattered)
    return (gradient,)


max_pool.defvjp(_forward, _backward)


def pool_pairs(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*pooled"]:
    """The larger of each pair of neighbours along an axis; an odd one at the end is left out.

    Equals share the gradient. It takes 2 ms where that of a reduce_window takes 74: of 1x2x2
    windows, for 4 frames of 28 pixels and 512 channels, on two cores.
    """
    even = x.shape[axis] // 2 * 2
    first, second = (lax.slice_in_dim(x, start, even, 2, axis) for start in (0, 1))
    return jnp.maximum(first, second)


def gathered_gradient(x: Input, grad: Output, padding: int = 1) -> Input:
    """The gradient of `x`, from that of the result."""
    place = lax.optimization_barrier(_place_of_largest(x, grad.shape, padding))
    total = jnp.zeros(x.shape, x.dtype)
    for index in range(9):
        here = jnp.where(place == index, grad, jnp.zeros((), grad.dtype))
        total += _spread(here, index, x.shape, padding)
    # Written once: what reads it, a norm's sums, would compute it again and again.
    written: Array = lax.optimization_barrier(total)
    return written


def _place_of_largest(
    x: Input, shape: tuple[int, ...], padding: int
) -> UInt8[Array, "n h_out w_out c"]:
    """Which of a window's nine places is the first of the largest: 3 * row + column."""
    sides = (padding, 2 * padding)
    x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-jnp.inf)
    _, rows, columns, _ = shape
    largest, place = jnp.full(shape, -jnp.inf, x.dtype), jnp.zeros(shape, jnp.uint8)
    for index in range(9):
        top, left = index // 3, index % 3
        value = x[:, top : top + 2 * rows : 2, left : left + 2 * columns : 2]
        larger = value > largest
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.uint8(index), place)
    return place


def _spread(grad: Output, index: int, shape: tuple[int, ...], padding: int) -> Input:
    """Each window's value at one of its nine places, zeros elsewhere."""
    config = [(0, 0, 0)]
    for axis, offset in ((1, index // 3), (2, index % 3)):
        low = offset - padding
        high = shape[axis] - (low + 2 * grad.shape[axis] - 1)
        config.append((low, high, 1))
    return lax.pad(grad, jnp.zeros((), grad.dtype), [*config, (0, 0, 0)])
