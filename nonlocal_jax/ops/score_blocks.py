"""Functions of scores at the resolution of the labels, which exist for a few rows at a time.

Logits are resized to their labels block by block, by two small matrices. The backward pass makes
the scores of each block once more: that costs the resizing twice, and saves the largest array of a
train step. Each device of a mesh resizes to its own rows of labels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.resize import resize_matrix

PRECISION = lax.Precision.HIGHEST  # of interpolation: bfloat16 would move positions and scores

# Bytes of float32 scores in a block of rows of one image; a block has at least ROWS_MULTIPLE rows.
BLOCK_BYTES = 4 * 2**20
ROWS_MULTIPLE = 8

Logits = Float[Array, "n h w classes"]
Labels = UInt8[Array, "n H W"]
Scores = Float[Array, "n r classes W"]
Map = Shaped[Array, "n H W"]
Parts = tuple[Int[Array, "n H"], tuple[Map, ...]]
"""The number of each row; labels and maps."""
OfBlock = Callable[..., Any]
"""From scores [n, r, classes, W], labels [n, r, W] and maps [n, r, W] of some rows."""


def sums(function: OfBlock, logits: Logits, labels: Labels, align_corners: bool, *maps: Map) -> Any:
    """What `function` returns, summed over all rows of each image: a tree of [n, ...].

    Args:
      function: from scores, labels and maps of some rows to a tree of sums [n, ...] over them. Rows
        are filled up with labels 255 and maps 0, which must add nothing.
      logits: at their own resolution.
      labels: at theirs.
      align_corners: how logits are resized.
      maps: further numbers of each pixel.
    """

    def of_rows(parts: Parts, logits: Logits) -> Any:
        one, blocks = _blockwise(function, parts, logits, align_corners, labels.shape[1])
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(one, logits, jax.tree.map(lambda x: x[0], blocks)),
        )

        def add(total: Any, block: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(logits, block)), None

        return lax.scan(add, zeros, blocks)[0]

    parts = (_places(labels), (labels, *maps))
    fill = (0, (IGNORED, *(0 for _ in maps)))
    return layout.sum_over_rows(of_rows, parts, layout.whole_rows(logits), fill=fill)


def pixels(
    function: OfBlock, logits: Logits, labels: Labels, align_corners: bool, *maps: Map
) -> Any:
    """What `function` returns for the pixels of all rows: a tree of [n, H, W]; see `sums`."""

    def of_rows(parts: Parts, logits: Logits) -> Any:
        one, blocks = _blockwise(function, parts, logits, align_corners, labels.shape[1])
        found = lax.map(lambda block: one(logits, block), blocks)
        return jax.tree.map(lambda x: _whole(x, parts[0].shape[1]), found)

    parts = (_places(labels), (labels, *maps))
    return layout.on_each_device(of_rows, parts, layout.whole_rows(logits))


def hits(
    scores: Scores, labels: UInt8[Array, "n r W"]
) -> tuple[Bool[Array, "n r W"], Bool[Array, "n r W"]]:
    """Which pixels are right, and which are labelled. The first of equal scores is predicted."""
    index = jnp.arange(scores.shape[2], dtype=jnp.uint8)[:, None]
    counted, peak = labels != IGNORED, jnp.max(scores, axis=2, keepdims=True)
    # argmax in two plain reductions, twice as fast on CPU as XLA's own.
    first = jnp.min(jnp.where(scores == peak, index, jnp.uint8(IGNORED)), axis=2)
    return (first == labels) & counted, counted


def is_label(scores: Scores, labels: UInt8[Array, "n r W"]) -> Bool[Array, "n r classes W"]:
    """Whether a class is the label of a pixel."""
    return jnp.arange(scores.shape[2], dtype=jnp.uint8)[:, None] == labels[:, :, None]


def blocks_of(x: Shaped[Array, "n H ..."], bytes_per_row: int, fill: int) -> Array:
    """[n, H, ...] as [blocks, n, rows, ...]; the last block is filled up with `fill`."""
    rows = ROWS_MULTIPLE * max(round(BLOCK_BYTES / bytes_per_row / ROWS_MULTIPLE), 1)
    padding = [(0, 0), (0, -x.shape[1] % rows)] + [(0, 0)] * (x.ndim - 2)
    padded = jnp.pad(x, padding, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], -1, rows, *x.shape[2:]), 1, 0)


def _blockwise(
    function: OfBlock, parts: Parts, logits: Logits, align_corners: bool, height: int
) -> tuple[Callable[[Logits, Any], Any], Any]:
    """The function of one block, and all blocks: matrices of rows, labels and maps."""
    place, (labels, *maps) = parts
    to_rows = resize_matrix(logits.shape[1], height, align_corners).astype(logits.dtype)
    to_columns = resize_matrix(logits.shape[2], labels.shape[2], align_corners)
    to_columns = to_columns.astype(logits.dtype)

    @jax.checkpoint  # type: ignore[misc, unused-ignore]
    def one(logits: Logits, block: Any) -> Any:
        to_rows, labels, maps = block
        # Rows first: their result is small, and the second product is a single large one.
        some = jnp.einsum("nrh,nhwc->nrcw", to_rows, logits, precision=PRECISION)
        scores = jnp.einsum("nrcw,Ww->nrcW", some, to_columns, precision=PRECISION)
        return function(scores, labels, *maps)

    size = 4 * labels.shape[2] * logits.shape[3]
    rows = blocks_of(jnp.take(to_rows, place, axis=0, mode="clip"), size, 0)
    return one, (rows, blocks_of(labels, size, IGNORED), [blocks_of(m, size, 0) for m in maps])


def _places(labels: Labels) -> Int[Array, "n H"]:
    """The number of each row."""
    return jnp.broadcast_to(jnp.arange(labels.shape[1], dtype=jnp.int32), labels.shape[:2])


def _whole(blocks: Shaped[Array, "blocks n rows W"], height: int) -> Shaped[Array, "n H W"]:
    """[blocks, n, rows, W] as [n, H, W]."""
    joined = jnp.moveaxis(blocks, 0, 1)
    return joined.reshape(joined.shape[0], -1, joined.shape[3])[:, :height]
