"""Interpolation by taps: each pixel of the result names the few pixels that it is the sum of.

A row of an interpolation matrix has two entries that are not zero, or three where two resizes are
composed and the first one enlarges. XLA can compute such a sum in the kernel that uses it, so that
nothing exists at full resolution. A GPU is fast that way. A CPU or a TPU is faster with products of
matrices.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Axis(NamedTuple):
    """How an axis is resized, bilinearly: from `source` samples to `target` samples."""

    source: int
    target: int
    align_corners: bool


class Taps(NamedTuple):
    """The pixels that each pixel of the result is the weighted sum of.

    Attributes:
      place: along the axis that is resized.
      weight: 0 where a pixel has fewer taps than others.
    """

    place: Int[Array, "*n length taps"] | Int[np.ndarray, "*n length taps"]
    weight: Float[Array, "*n length taps"] | Float[np.ndarray, "*n length taps"]


def resize_taps(axis: Axis) -> Taps:
    """The two taps of each target, as NumPy arrays; the numbers of ops/resize.py's matrix."""
    dtype = jnp.result_type(float)
    source, target = dtype.type(axis.source), dtype.type(axis.target)
    index = np.arange(axis.target, dtype=dtype)
    if axis.align_corners:
        position = index * ((source - 1) / max(target - 1, dtype.type(1)))
    else:
        position = np.maximum((index + dtype.type(0.5)) * (source / target) - dtype.type(0.5), 0)
    position = np.minimum(position, source - 1)
    lower = np.floor(position)
    upper = np.minimum(lower + 1, source - 1)
    weight = position - lower
    return Taps(np.stack([lower, upper], -1).astype(np.int32), np.stack([1 - weight, weight], -1))


def reversed_taps(taps: Taps, source: int) -> Taps:
    """The targets that each source is a tap of, and its weight in each; NumPy arrays."""
    matrix = np.zeros((len(taps.place), source), taps.weight.dtype)
    np.add.at(matrix, (np.arange(len(taps.place))[:, None], taps.place), taps.weight)
    used = matrix != 0
    first, counts = np.argmax(used, axis=0), np.count_nonzero(used, axis=0)
    index = np.minimum(first[:, None] + np.arange(max(counts.max(), 1)), len(matrix) - 1)
    weight = matrix[index, np.arange(source)[:, None]]
    weight[np.arange(index.shape[1]) >= counts[:, None]] = 0
    return Taps(index.astype(np.int32), weight)


def matrix_taps(matrix: Float[Array, "n length source"], count: int, windows: int = 1) -> Taps:
    """The taps that the rows of a matrix hold: `count` neighbours, from the first that is not zero.

    Args:
      matrix: from the first to the last entry of a row that is not zero there are at most `count`.
      count: how many taps are taken.
      windows: the columns are those of so many windows side by side, with taps in each of them.
    """
    parts = jnp.split(matrix, windows, axis=-1)
    width = matrix.shape[-1] // windows
    found = [_neighbours(part, min(count, width)) for part in parts]
    index = [taps.place + width * window for window, taps in enumerate(found)]
    weight = [taps.weight for taps in found]
    return Taps(jnp.concatenate(index, axis=-1), jnp.concatenate(weight, axis=-1))


def _neighbours(matrix: Float[Array, "*n length source"], count: int) -> Taps:
    first = jnp.argmax(matrix != 0, axis=-1).astype(jnp.int32)
    # The last place that `count` neighbours have: nothing is read twice.
    first = jnp.minimum(first, matrix.shape[-1] - count)
    index = first[..., None] + jnp.arange(count, dtype=jnp.int32)
    return Taps(index, jnp.take_along_axis(matrix, index, axis=-1))


def compose(second: Float[Array, "C B"], first: Float[Array, "B A"]) -> Float[Array, "C A"]:
    """second @ first, for a `second` that interpolates: each row is the sum of two of `first`."""
    taps = _neighbours(second, min(2, second.shape[1]))
    index, weight = map(jnp.asarray, taps)
    rows = [weight[:, tap, None] * first[index[:, tap]] for tap in range(index.shape[1])]
    return functools.reduce(jnp.add, rows)


def interpolate_rows(x: Float[Array, "n a b c"], taps: Taps) -> Float[Array, "n H b c"]:
    """Each row of the result from its taps; `taps` are [n, H, k], or [H, k] for all images."""
    return _interpolate(x, taps, axis=1)


def interpolate_columns(x: Float[Array, "n H b c"], taps: Taps) -> Float[Array, "n H W c"]:
    """Each column of the result from its taps; `taps` are [n, W, k], or [W, k] for all images."""
    return _interpolate(x, taps, axis=2)


def _interpolate(x: Float[Array, "n a b c"], taps: Taps, axis: int) -> Float[Array, "n A B c"]:
    def one_tap(tap: int) -> Float[Array, "n A B c"]:
        index, weight = taps.place[..., tap], taps.weight[..., tap].astype(x.dtype)
        if index.ndim == 1:
            taken = jnp.take(x, index, axis=axis, mode="clip")
        else:
            taken = jax.vmap(lambda x, i: jnp.take(x, i, axis=axis - 1, mode="clip"))(x, index)
        shape = [1, 1, 1, 1]
        shape[0], shape[axis] = (index.shape[0] if index.ndim > 1 else 1), index.shape[-1]
        return taken * jnp.reshape(weight, shape)

    total = one_tap(0)
    for tap in range(1, taps.place.shape[-1]):
        total += one_tap(tap)
    return total


def first_largest(scores: Float[Array, "*pixels classes"]) -> Int[Array, "*pixels"]:
    """The first class of the largest score; `classes` where a score is NaN.

    One reduction, which XLA joins with what makes the scores.
    """
    classes = scores.shape[-1]
    index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)

    def larger(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        (x, i), (y, j) = a, b
        chosen = (x > y) | (x != x) | ((x == y) & (i < j))
        return jnp.where(chosen, x, y), jnp.where(chosen, i, j)

    start = jnp.array(-jnp.inf, scores.dtype), jnp.array(classes, jnp.int32)
    largest, first = jax.lax.reduce((scores, index), start, larger, (scores.ndim - 1,))
    return jnp.where(jnp.isnan(largest), classes, first)
