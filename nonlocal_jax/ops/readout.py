"""Class indices at full resolution from logits at low resolution, on a GPU.

Each pixel's scores are made where they are compared: no array holds them all. A kernel does that
in one pass (see ops/readout_kernel.py). XLA's own form interpolates rows first, and keeps them.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from nonlocal_jax.ops import layout
from nonlocal_jax.ops.readout_kernel import kernel_supports, read_out
from nonlocal_jax.ops.taps import (
    Taps,
    first_largest,
    interpolate_columns,
    interpolate_rows,
    matrix_taps,
)

# Two resizes composed have three neighbours an axis: the first enlarges.
COMPOSED = 3
# At most so many bytes of interpolated rows exist at a time.
BLOCK_BYTES = 2**30

Form = Literal["kernel", "taps"]
FORM: Form = "kernel"


class Resized(NamedTuple):
    """Logits, and the matrices that resize them: rows @ logits @ columns^T."""

    logits: Float[Array, "n a b classes"]
    rows: Float[Array, "n H a"]
    columns: Float[Array, "n W b"]


Windows = tuple[int, int]  # how many there are side by side, along each axis


def class_indices(
    scores: Sequence[Resized], windows: Sequence[Windows], form: Form | None = None
) -> UInt8[Array, "n H W"]:
    """The first class of the largest score, or of the largest mean of the scores' softmaxes.

    It is `classes` where scores are NaN. Each device of a mesh makes its own rows.

    Args:
      scores: one for each view of the images; their matrices have at most three neighbours a row
        in each window that are not zero.
      windows: for each of the scores, how many windows side by side its logits are of: (1, 1) if
        they are of whole images.
      form: "kernel" or "taps", XLA's own; the module's FORM by default.
    """
    kernel = (form or FORM) == "kernel" and all(kernel_supports(s.logits) for s in scores)

    def masks(rows: list[Array], keys: list[tuple[Array, Array]]) -> UInt8[Array, "n rows W"]:
        parts = [Resized(x, r, c) for r, (x, c) in zip(rows, keys, strict=True)]
        columns = [
            matrix_taps(part.columns, COMPOSED, side)
            for part, (_, side) in zip(parts, windows, strict=True)
        ]
        if kernel:
            runs = [side for side, _ in windows]
            return read_out([p.logits for p in parts], [p.rows for p in parts], columns, runs)
        row_taps = [
            matrix_taps(part.rows, COMPOSED, side)
            for part, (side, _) in zip(parts, windows, strict=True)
        ]
        return _by_row_blocks([part.logits for part in parts], row_taps, columns)

    keys = [(s.logits, s.columns) for s in scores]
    return layout.on_each_device(masks, [s.rows for s in scores], keys)


def _by_row_blocks(
    logits: list[Float[Array, "n _ _ classes"]], rows: list[Taps], columns: list[Taps]
) -> UInt8[Array, "n H W"]:
    """As many rows at a time as BLOCK_BYTES allow: in most cases all of them."""
    height = rows[0].place.shape[1]
    bytes_per_row = sum(4 * x.shape[0] * x.shape[2] * x.shape[3] for x in logits)
    length = max(min(BLOCK_BYTES // bytes_per_row, height), 1)
    if length == height:
        return _masks(logits, rows, columns)
    blocks = -(-height // length)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, blocks * length - height), (0, 0)))
        return jnp.moveaxis(x.reshape(x.shape[0], blocks, length, -1), 1, 0)

    masks = lax.map(lambda taps: _masks(logits, taps, columns), jax.tree.map(cut, rows))
    masks = jnp.moveaxis(masks, 0, 1)
    return masks.reshape(masks.shape[0], -1, masks.shape[-1])[:, :height]


def _masks(
    logits: list[Float[Array, "n _ _ classes"]], rows: list[Taps], columns: list[Taps]
) -> UInt8[Array, "n H W"]:
    # The barrier keeps the rows out of what follows, which would make them for each column anew.
    some = [
        lax.optimization_barrier(interpolate_rows(x, taps))
        for x, taps in zip(logits, rows, strict=True)
    ]
    if len(some) == 1:
        return _first(interpolate_columns(some[0], columns[0]))
    total: Array | float = 0.0
    for x, taps in zip(some, columns, strict=True):
        scores = interpolate_columns(x, taps)
        peak = lax.optimization_barrier(jnp.max(scores, axis=-1, keepdims=True))
        exponentials = jnp.exp(scores - peak)
        total += exponentials / lax.optimization_barrier(
            len(some) * jnp.sum(exponentials, axis=-1, keepdims=True)
        )
    assert isinstance(total, jax.Array)
    return _first(total)


def _first(scores: Float[Array, "n H W classes"]) -> UInt8[Array, "n H W"]:
    first: Int[Array, "n H W"] = first_largest(scores)
    return first.astype(jnp.uint8)
