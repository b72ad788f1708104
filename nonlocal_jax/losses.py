"""What training minimises, and the accuracy that is watched beside it.

Scores at the labels' resolution would be the largest array of a train step: 629 MB for 4 images of
512x512 pixels and 150 classes, several times over. They are made for a few rows of labels at a
time instead, by the two small matrices of ops/resize.py. What follows the loss is a product with
one number, so that the same pass gives the gradient, too.

Blocks of rows are *interleaved*: block s holds the rows s, s + blocks, s + 2 * blocks, ... A
height that is split over devices is so split in equal parts inside every block.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from nonlocal_jax.ops.dtypes import wide
from nonlocal_jax.ops.resize import resize_matrix

IGNORE = 255
PRECISION = lax.Precision.HIGHEST  # of interpolation: bfloat16 would move positions and scores

# Bytes of float32 scores that a block of one image's rows may take, and a number of rows that is
# still split evenly where the height is.
BLOCK_BYTES = 4 * 2**20
ROWS_MULTIPLE = 8

Logits = Float[Array, "n h w classes"]
Labels = UInt8[Array, "n H W"]


class LossAndAccuracy(NamedTuple):
    """Of one head on one batch.

    Attributes:
      loss: softmax cross entropy, averaged over *all* pixels: those labelled 255 add nothing to
        the sum but count in the denominator, as in the reference (`avg_non_ignore=False`). NaN
        where a label is neither 255 nor a class.
      accuracy: share of the labelled pixels whose label is the first of the largest scores; 0
        where no pixel is labelled.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def segmentation_loss(logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
    """Loss and accuracy of float32 logits that are resized to their labels, bilinearly."""
    return _one_pass(logits, labels, align_corners)[0]


def _forward(logits: Logits, labels: Labels, align_corners: bool) -> tuple[LossAndAccuracy, Logits]:
    return _one_pass(logits, labels, align_corners)


def _backward(
    align_corners: bool, gradient: Logits, cotangents: LossAndAccuracy
) -> tuple[Logits, None]:
    return cotangents.loss * gradient, None


segmentation_loss.defvjp(_forward, _backward)


class _Sums(NamedTuple):
    """What blocks of rows add up to."""

    loss: Float[Array, ""]
    right: Int[Array, ""]
    gradient: Logits


def _one_pass(
    logits: Logits, labels: Labels, align_corners: bool
) -> tuple[LossAndAccuracy, Logits]:
    """Loss and accuracy, and the loss's gradient."""
    _, height, width = labels.shape
    blocks = _count_blocks(height, 4 * width * logits.shape[-1])
    to_rows = resize_matrix(logits.shape[1], height, align_corners).astype(logits.dtype)
    to_columns = resize_matrix(logits.shape[2], width, align_corners).astype(logits.dtype)

    def add_block(
        total: _Sums, block: tuple[Float[Array, "rows h"], UInt8[Array, "rows n W"]]
    ) -> tuple[_Sums, None]:
        to_rows, labels = block
        # Rows first: their result is small, and the second product is one large one.
        some = jnp.einsum("rh,nhwc->nrcw", to_rows, logits, precision=PRECISION)
        scores = jnp.einsum("nrcw,Ww->nrcW", some, to_columns, precision=PRECISION)
        loss, right, gradient = _cross_entropy(scores, jnp.swapaxes(labels, 0, 1))
        some = jnp.einsum("nrcW,Ww->nrcw", gradient, to_columns, precision=PRECISION)
        gradient = jnp.einsum("rh,nrcw->nhwc", to_rows, some, precision=PRECISION)
        return jax.tree.map(jnp.add, total, _Sums(loss, right, gradient)), None

    zero = jnp.zeros((), wide(logits.dtype))
    zeros = _Sums(zero, jnp.zeros((), jnp.int32), jnp.zeros_like(logits))
    items = (
        _interleaved(to_rows, blocks, 0),
        _interleaved(jnp.moveaxis(labels, 1, 0), blocks, IGNORE),
    )
    sums, _ = lax.scan(add_block, zeros, items)
    counted = jnp.maximum(jnp.sum(labels != IGNORE, dtype=jnp.int32), 1)
    accuracy = sums.right.astype(zero.dtype) / counted.astype(zero.dtype)
    return LossAndAccuracy(sums.loss / labels.size, accuracy), sums.gradient / labels.size


def _cross_entropy(
    scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> tuple[Float[Array, ""], Int[Array, ""], Float[Array, "n r classes W"]]:
    """Sum of losses, number of right pixels, and the gradient of the former."""
    classes = scores.shape[2]
    index = jnp.arange(classes, dtype=jnp.uint8)[:, None]
    counted, is_label = labels != IGNORE, index == labels[:, :, None]
    peak = jnp.max(scores, axis=2, keepdims=True)
    exponentials = jnp.exp(scores - peak)
    total = jnp.sum(exponentials, axis=2, keepdims=True)
    picked = jnp.sum(jnp.where(is_label, scores - peak, 0.0), axis=2)
    picked = jnp.where(labels < classes, picked, jnp.nan)
    losses = jnp.log(total[:, :, 0]) - picked
    # argmax in two plain reductions, twice as fast on CPU as XLA's own.
    first = jnp.min(jnp.where(scores == peak, index, jnp.uint8(IGNORE)), axis=2)
    right = jnp.sum((first == labels) & counted, dtype=jnp.int32)
    gradient = exponentials / total - is_label.astype(scores.dtype)
    gradient = jnp.where(counted[:, :, None], gradient, 0.0)
    return jnp.sum(jnp.where(counted, losses, 0.0)), right, gradient


def _count_blocks(height: int, bytes_per_row: int) -> int:
    """How many blocks the rows of an image are dealt to."""
    rows = ROWS_MULTIPLE * max(round(BLOCK_BYTES / bytes_per_row / ROWS_MULTIPLE), 1)
    return -(-height // rows)


def _interleaved(x: Array, blocks: int, fill: int) -> Array:
    """[H, ...] to [blocks, rows, ...], dealt in turn; the last rows of some blocks are `fill`."""
    rows = -(-x.shape[0] // (blocks * ROWS_MULTIPLE)) * ROWS_MULTIPLE
    padding = [(0, rows * blocks - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
    padded = jnp.pad(x, padding, constant_values=fill)
    return jnp.swapaxes(padded.reshape(rows, blocks, *x.shape[1:]), 0, 1)
