"""3x3 max-pooling with stride 2, with a gradient that a GPU computes quickly.

XLA's own gradient on a GPU scatters, one addition after the other in memory. Here each input
reads the windows that it may be the largest of: four at most.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

Input = Float[Array, "n h w c"]
Output = Float[Array, "n H W c"]
PADDING = ((0, 0), (1, 1), (1, 1), (0, 0))


@jax.custom_vjp
def max_pool(x: Input) -> Output:
    """The largest of each 3x3 window; h' = ceil(h / 2).

    The gradient goes to the first of equals.
    """
    return _pool(x)


def _pool(x: Input) -> Output:
    pooled: Array = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), PADDING)
    return pooled


def _forward(x: Input) -> tuple[Output, Input]:
    return max_pool(x), x


def _backward(x: Input, grad: Output) -> tuple[Input]:
    def scattered(x: Input, grad: Output) -> Input:
        gradient: Array = jax.vjp(_pool, x)[1](grad)[0]
        return gradient

    gradient = lax.platform_dependent(x, grad, cuda=gathered_gradient, default=scattered)
    return (gradient,)


max_pool.defvjp(_forward, _backward)


def gathered_gradient(x: Input, grad: Output) -> Input:
    """The gradient of `x`, from that of the result."""
    place = lax.optimization_barrier(_place_of_largest(x, grad.shape))
    total = jnp.zeros(x.shape, x.dtype)
    for index in range(9):
        here = jnp.where(place == index, grad, jnp.zeros((), grad.dtype))
        total += _spread(here, index, x.shape)
    # Written once: what reads it, a norm's sums, would compute it again and again.
    written: Array = lax.optimization_barrier(total)
    return written


def _place_of_largest(x: Input, shape: tuple[int, ...]) -> UInt8[Array, "n H W c"]:
    """Which of a window's nine places is the first of the largest: 3 * row + column."""
    x = jnp.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=-jnp.inf)
    _, rows, columns, _ = shape
    largest, place = jnp.full(shape, -jnp.inf, x.dtype), jnp.zeros(shape, jnp.uint8)
    for index in range(9):
        top, left = index // 3, index % 3
        value = x[:, top : top + 2 * rows : 2, left : left + 2 * columns : 2]
        larger = value > largest
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.uint8(index), place)
    return place


def _spread(grad: Output, index: int, shape: tuple[int, ...]) -> Input:
    """Each window's value at one of its nine places, zeros elsewhere."""
    config = [(0, 0, 0)]
    for axis, offset in ((1, index // 3), (2, index % 3)):
        low = offset - 1
        high = shape[axis] - (low + 2 * grad.shape[axis] - 1)
        config.append((low, high, 1))
    return lax.pad(grad, jnp.zeros((), grad.dtype), [*config, (0, 0, 0)])
