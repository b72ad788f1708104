"""Means over the cells of grids, as PyTorch's AdaptiveAvgPool2d defines the cells.

A grid of g x g cells divides an axis of s samples. Cell i holds the samples from floor(i s / g) to
ceil((i + 1) s / g), without the last. Cells overlap where g does not divide s.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.ops.attention.keys import products
from nonlocal_jax.ops.dims import Dim


def grid_means(
    x: Float[Array, "n h w c"], grids: Sequence[int], sizes: Int[Array, "n 2"]
) -> Float[Array, "n cells c"]:
    """Means in float32 or wider over all cells of all grids, grid by grid and row by row.

    Args:
      x: feature maps.
      grids: rows and columns of each grid.
      sizes: height and width of each image in `x`. The grids divide that.
    """
    rows, columns = (
        jnp.concatenate([cells(sizes[:, axis], grid, x.shape[axis + 1]) for grid in grids], axis=1)
        for axis in (0, 1)
    )
    # Sums of ones and zeros times numbers: the factors are exact in any dtype.
    over_rows = products("nkh,nhwc->nkwc", rows.astype(x.dtype), x)
    over_rows /= jnp.sum(rows, axis=-1)[..., None, None].astype(over_rows.dtype)
    means, counts = [], jnp.sum(columns, axis=-1)[:, None, :, None].astype(over_rows.dtype)
    for start, stop in itertools.pairwise(itertools.accumulate(grids, initial=0)):
        part, own = over_rows[:, start:stop], columns[:, start:stop].astype(over_rows.dtype)
        mean = products("nlw,nkwc->nklc", own, part) / counts[:, :, start:stop]
        means.append(mean.reshape(x.shape[0], -1, x.shape[-1]))
    return jnp.concatenate(means, axis=1)


def cells(sizes: Int[Array, "n"], grid: int, length: Dim) -> Bool[Array, "n {grid} length"]:
    """Which of `length` samples each cell holds, where the first `sizes` samples are divided."""
    cell, sizes = jnp.arange(grid), sizes[:, None]
    start, stop = cell * sizes // grid, -(-(cell + 1) * sizes // grid)
    sample = jnp.arange(length)
    return (start[..., None] <= sample) & (sample < stop[..., None])
