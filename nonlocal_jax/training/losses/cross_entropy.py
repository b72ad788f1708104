"""Softmax cross entropy of logits that are resized to the labels, and the pixel accuracy.

Scores at the resolution of the labels would be the largest array of a train step: 629 MB for 4
images of 512x512 pixels and 150 classes, several times over. So they are computed for a few rows of
labels at a time, with the two small matrices of ops/resize.py. The gradient of the mean loss is a
multiple of that of the sum, so the same pass computes it.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped, UInt8

from nonlocal_jax.config.schema import IGNORED, LossOptions
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.cross_entropy import Sums, cross_entropy
from nonlocal_jax.ops.dtypes import wide
from nonlocal_jax.ops.resize import resize_matrix
from nonlocal_jax.ops.taps import Axis
from nonlocal_jax.training.losses.loss import Labels, Logits, Loss, LossAndAccuracy

PRECISION = lax.Precision.HIGHEST  # of interpolation: bfloat16 would move positions and scores

# Bytes of float32 scores in a block of rows of one image; a block has at least ROWS_MULTIPLE rows.
BLOCK_BYTES = 4 * 2**20
ROWS_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class Options(LossOptions):
    """Softmax cross entropy has no settings."""

    name: str = "cross_entropy"


def build(options: Options) -> Loss:
    """The loss of a config."""
    return segmentation_loss


def segmentation_loss(logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
    """Softmax cross entropy of logits that are resized bilinearly to their labels.

    The loss is the mean over *all* pixels. Pixels labelled 255 add nothing to the sum but count in
    the denominator, as in the reference (`avg_non_ignore=False`). The loss is NaN if a label is
    neither 255 nor a class. Each device of a mesh resizes to its own rows of labels.
    """
    rows, columns = (Axis(logits.shape[axis], labels.shape[axis], align_corners) for axis in (1, 2))

    def sums(parts: tuple[Labels, Int[Array, "n H"]], logits: Logits) -> Sums:
        labels, place = parts
        return _sums(logits, labels, place, rows, columns)

    place = jnp.broadcast_to(jnp.arange(labels.shape[1], dtype=jnp.int32), labels.shape[:2])
    total = layout.sum_over_devices(sums, (labels, place), layout.whole_rows(logits), fill=IGNORED)
    right, counted = (count.astype(total.loss.dtype) for count in (total.right, total.counted))
    return LossAndAccuracy(total.loss / labels.size, right / counted)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _sums(
    logits: Logits, labels: Labels, place: Int[Array, "n H"], rows: Axis, columns: Axis
) -> Sums:
    return _forward(logits, labels, place, rows, columns)[0]


def _forward(
    logits: Logits, labels: Labels, place: Int[Array, "n H"], rows: Axis, columns: Axis
) -> tuple[Sums, Logits]:
    """The sums, and the gradient of the sum of losses; `place` is each row's number."""

    def by_blocks(logits: Logits, labels: Labels, place: Int[Array, "n H"]) -> tuple[Sums, Logits]:
        to_rows, to_columns = (
            resize_matrix(*axis).astype(logits.dtype) for axis in (rows, columns)
        )
        return _one_pass(logits, labels, jnp.take(to_rows, place, axis=0, mode="clip"), to_columns)

    def by_taps(logits: Logits, labels: Labels, place: Int[Array, "n H"]) -> tuple[Sums, Logits]:
        return cross_entropy(logits, labels, place[0, 0], rows, columns)

    both: tuple[Sums, Logits] = lax.platform_dependent(
        logits, labels, place, cuda=by_taps, default=by_blocks
    )
    return both


def _backward(
    rows: Axis, columns: Axis, gradient: Logits, cotangents: Sums
) -> tuple[Logits, None, None]:
    return cotangents.loss * gradient, None, None


_sums.defvjp(_forward, _backward)


def _one_pass(
    logits: Logits,
    labels: Labels,
    to_rows: Float[Array, "n H h"],
    to_columns: Float[Array, "W w"],
) -> tuple[Sums, Logits]:
    """The sums, and the gradient of the sum of losses."""
    bytes_per_row = 4 * labels.shape[2] * logits.shape[3]

    def add_block(
        total: tuple[Sums, Logits],
        block: tuple[Float[Array, "n rows h"], UInt8[Array, "n rows W"]],
    ) -> tuple[tuple[Sums, Logits], None]:
        to_rows, labels = block
        # Rows first: their result is small, and the second product is a single large one.
        some = jnp.einsum("nrh,nhwc->nrcw", to_rows, logits, precision=PRECISION)
        scores = jnp.einsum("nrcw,Ww->nrcW", some, to_columns, precision=PRECISION)
        sums, gradient = _cross_entropy(scores, labels)
        some = jnp.einsum("nrcW,Ww->nrcw", gradient, to_columns, precision=PRECISION)
        gradient = jnp.einsum("nrh,nrcw->nhwc", to_rows, some, precision=PRECISION)
        return jax.tree.map(jnp.add, total, (sums, gradient)), None

    none = jnp.zeros((), jnp.int32)
    zeros = Sums(jnp.zeros((), wide(logits.dtype)), none, none), jnp.zeros_like(logits)
    blocks = _blocks(to_rows, bytes_per_row, 0), _blocks(labels, bytes_per_row, IGNORED)
    return lax.scan(add_block, zeros, blocks)[0]


def _cross_entropy(
    scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> tuple[Sums, Float[Array, "n r classes W"]]:
    """The sums over all pixels, and the gradient of the sum of losses."""
    classes = scores.shape[2]
    index = jnp.arange(classes, dtype=jnp.uint8)[:, None]
    counted, is_label = labels != IGNORED, index == labels[:, :, None]
    peak = jnp.max(scores, axis=2, keepdims=True)
    exponentials = jnp.exp(scores - peak)
    total = jnp.sum(exponentials, axis=2, keepdims=True)
    picked = jnp.sum(jnp.where(is_label, scores - peak, 0.0), axis=2)
    picked = jnp.where(labels < classes, picked, jnp.nan)
    losses = jnp.where(counted, jnp.log(total[:, :, 0]) - picked, 0.0)
    # argmax in two plain reductions, twice as fast on CPU as XLA's own.
    first = jnp.min(jnp.where(scores == peak, index, jnp.uint8(IGNORED)), axis=2)
    right = (first == labels) & counted
    gradient = exponentials / total - is_label.astype(scores.dtype)
    gradient = jnp.where(counted[:, :, None], gradient, 0.0)
    count = [jnp.sum(pixels, dtype=jnp.int32) for pixels in (right, counted)]
    return Sums(jnp.sum(losses), *count), gradient


def _blocks(x: Shaped[Array, "n H ..."], bytes_per_row: int, fill: int) -> Array:
    """[n, H, ...] as [blocks, n, rows, ...]; the last block is filled up with `fill`."""
    rows = ROWS_MULTIPLE * max(round(BLOCK_BYTES / bytes_per_row / ROWS_MULTIPLE), 1)
    padding = [(0, 0), (0, -x.shape[1] % rows)] + [(0, 0)] * (x.ndim - 2)
    padded = jnp.pad(x, padding, constant_values=fill)
    return jnp.moveaxis(padded.reshape(x.shape[0], -1, rows, *x.shape[2:]), 1, 0)
