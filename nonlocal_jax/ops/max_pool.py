"""Max-pooling of 3x3 windows with stride 2, and of pairs, with quick gradients.

XLA's own gradient scatters, one addition after the other in memory. Here each input reads the
windows that it is in: four at most. For a clip's 8 frames of 112 pixels and 64 channels, without
padding, two cores take 17 ms, and 390 ms with XLA's. XLA's is used on TPUs, and where windows are
padded on CPUs and where the rows of an image are split over devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.ops.layout import splits_rows

Input = Float[Array, "n h w c"]
Output = Float[Array, "n h_out w_out c"]
Places = UInt8[Array, "n h_out w_out c"]

Memberships = tuple[tuple[int, int], ...]
# For each padding, and for even and for odd rows (or columns): the windows that row r is in, as
# (offset, place). The window is number r // 2 + offset, and the row is number `place` of its three.
WINDOWS: dict[int, tuple[Memberships, Memberships]] = {
    0: (((0, 0), (-1, 2)), ((0, 1),)),
    1: (((0, 1),), ((1, 0), (0, 2))),
}


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


def _forward(x: Input, padding: int) -> tuple[Output, tuple[Input, Places]]:
    def without_place(x: Input) -> tuple[Output, Places]:
        pooled = _pool(x, padding)
        return pooled, jnp.zeros(pooled.shape, jnp.uint8)  # which nothing reads

    if _uses_xlas(padding):
        pooled, unused = without_place(x)
        return pooled, (x, unused)
    largest, place = lax.platform_dependent(
        x, cuda=partial(largest_and_place, padding=padding), default=without_place
    )
    return largest, (x, place)


def _backward(padding: int, residuals: tuple[Input, Places], grad: Output) -> tuple[Input]:
    x, place = residuals

    def scattered(x: Input, _: Places, grad: Output) -> Input:
        gradient: Array = jax.vjp(lambda x: _pool(x, padding), x)[1](grad)[0]
        return gradient

    def gathered(x: Input, place: Places, grad: Output) -> Input:
        return gathered_gradient(place, grad, x.shape, padding)

    def placed_and_gathered(x: Input, _: Places, grad: Output) -> Input:
        return gathered(x, largest_and_place(x, padding)[1], grad)

    if _uses_xlas(padding):
        return (scattered(x, place, grad),)
    on_cpu = scattered if padding else placed_and_gathered
    gradient = lax.platform_dependent(x, place, grad, cpu=on_cpu, cuda=gathered, default=scattered)
    return (gradient,)


max_pool.defvjp(_forward, _backward)


def _uses_xlas(padding: int) -> bool:
    """Whether rows are split: XLA's partitioner ends in a crash for the gathered form."""
    return bool(padding) and splits_rows()


def pool_pairs(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*pooled"]:
    """The larger of each pair of neighbours along an axis; an odd one at the end is left out.

    Equals share the gradient. It takes 2 ms where that of a reduce_window takes 74: of 1x2x2
    windows, for 4 frames of 28 pixels and 512 channels, on two cores.
    """
    even = x.shape[axis] // 2 * 2
    first, second = (lax.slice_in_dim(x, start, even, 2, axis) for start in (0, 1))
    return jnp.maximum(first, second)


def largest_and_place(x: Input, padding: int = 1) -> tuple[Output, Places]:
    """The largest of each window, and which of its nine places is the first that has it.

    Places are counted as 3 * row + column.
    """
    lengths = [(length + 2 * padding - 1) // 2 for length in x.shape[1:3]]
    sides = (padding, 2 * padding)  # one more at the end, so that all nine slices are as long
    x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-jnp.inf)
    rows, columns = lengths
    shape = (x.shape[0], rows, columns, x.shape[3])
    largest, place = jnp.full(shape, -jnp.inf, x.dtype), jnp.zeros(shape, jnp.uint8)
    for index in range(9):
        top, left = index // 3, index % 3
        value = x[:, top : top + 2 * rows : 2, left : left + 2 * columns : 2]
        # NaN is the largest of all, and stays that.
        larger = ~((value <= largest) | (largest != largest))
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.uint8(index), place)
    return largest, place


def gathered_gradient(
    place: Places, grad: Output, shape: tuple[int, ...], padding: int = 1
) -> Input:
    """The gradient of an input of a shape, from that of the result.

    Args:
      place: what `largest_and_place` returns.
      grad: of the result.
      shape: of the input.
      padding: 1 or 0.
    """
    batch, height, width, channels = shape
    cells = (height + 1) // 2, (width + 1) // 2

    def at(x: Array, down: int, right: int) -> Array:
        """For each pair of rows and of columns, `x` so many windows further; 0 outside."""
        moved = (
            (-down, down + cells[0] - x.shape[1], 0),
            (-right, right + cells[1] - x.shape[2], 0),
        )
        return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *moved, (0, 0, 0)))

    def inputs(rows: Memberships, columns: Memberships) -> Array:
        total = jnp.zeros((batch, *cells, channels), grad.dtype)
        for down, row in rows:
            for right, column in columns:
                here = at(place, down, right) == 3 * row + column
                total += jnp.where(here, at(grad, down, right), jnp.zeros((), grad.dtype))
        return total

    axis = WINDOWS[padding]
    pairs = [jnp.stack([inputs(rows, columns) for columns in axis], axis=3) for rows in axis]
    total = jnp.stack(pairs, axis=2).reshape(batch, 2 * cells[0], 2 * cells[1], channels)
    # Written once: what reads it, a norm's sums, would compute it again and again.
    written: Array = lax.optimization_barrier(total[:, :height, :width])
    return written
