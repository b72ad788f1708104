"""Softmax cross entropy of logits that are resized to the labels, and the pixel accuracy.

Scores at the resolution of the labels would be the largest array of a train step: 629 MB for 4
images of 512x512 pixels and 150 classes, several times over. So they are computed for a few rows of
labels at a time, with the two small matrices of ops/resize.py. The gradient of the mean loss is a
multiple of that of the sum, so the same pass computes it. On a GPU, ops/cross_entropy.py computes
the loss without class weights and smoothing, for all rows at once.

With class weights w and label smoothing e, the loss of a pixel with label y is

    (1 - e) w_y (-log p_y) + e / C sum_c w_c (-log p_c)

(arXiv 1512.00567, section 7, with weights as in PyTorch). ops/score_blocks.py computes it, in two
passes over the scores instead of one.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from nonlocal_jax.config.schema import IGNORED, Probability
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.cross_entropy import Sums, cross_entropy
from nonlocal_jax.ops.dtypes import wide
from nonlocal_jax.ops.resize import resize_matrix
from nonlocal_jax.ops.score_blocks import PRECISION, blocks_of, hits, is_label, sums
from nonlocal_jax.ops.taps import Axis
from nonlocal_jax.training.losses.loss import (
    ClassWeights,
    Labels,
    Logits,
    Loss,
    LossAndAccuracy,
    by_class,
    result,
)

EPSILON = float(np.finfo(np.float32).eps)  # in a denominator that may be zero


@dataclass(frozen=True, kw_only=True)
class Options(ClassWeights):
    """Settings of the loss."""

    name: str = "cross_entropy"
    avg_non_ignore: bool = False
    """Whether the mean is over the labelled pixels. By default ignored pixels count in the
    denominator, as they did for the published rows."""
    label_smoothing: Probability = 0.0
    """The share of a label that all classes get in equal parts."""


def build(options: Options) -> Loss:
    """The loss of a config."""
    if options.class_weights or options.label_smoothing:
        return partial(mean_of_pixels, options=options)
    return partial(segmentation_loss, avg_non_ignore=options.avg_non_ignore)


def segmentation_loss(
    logits: Logits, labels: Labels, align_corners: bool, *, avg_non_ignore: bool = False
) -> LossAndAccuracy:
    """Softmax cross entropy of logits that are resized bilinearly to their labels.

    The loss is the mean over *all* pixels. Pixels labelled 255 add nothing to the sum but count in
    the denominator, as in the reference, unless `avg_non_ignore`. The loss is NaN if a label is
    neither 255 nor a class. Each device of a mesh resizes to its own rows of labels.
    """
    rows, columns = (Axis(logits.shape[axis], labels.shape[axis], align_corners) for axis in (1, 2))

    def of_rows(parts: tuple[Labels, Int[Array, "n H"]], logits: Logits) -> Sums:
        labels, place = parts
        return _sums(logits, labels, place, rows, columns)

    place = jnp.broadcast_to(jnp.arange(labels.shape[1], dtype=jnp.int32), labels.shape[:2])
    total = layout.sum_over_devices(
        of_rows, (labels, place), layout.whole_rows(logits), fill=IGNORED
    )
    right, counted = (count.astype(total.loss.dtype) for count in (total.right, total.counted))
    denominator = counted + EPSILON if avg_non_ignore else labels.size
    return LossAndAccuracy(total.loss / denominator, right / counted)


def pixel_losses(
    scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"], options: Options
) -> Float[Array, "n r W"]:
    """The loss of each pixel; 0 where it is ignored."""
    weights = by_class(options.class_weights, scores.shape[2], scores.dtype)
    share = options.label_smoothing
    log_likelihoods = jax.nn.log_softmax(scores, axis=2)
    weighted = -log_likelihoods * weights[:, None]
    losses = (1 - share) * jnp.sum(jnp.where(is_label(scores, labels), weighted, 0.0), axis=2)
    if share:
        losses += share * jnp.mean(weighted, axis=2)
    return jnp.where(labels != IGNORED, losses, 0.0)


def mean_of_pixels(
    logits: Logits,
    labels: Labels,
    align_corners: bool,
    options: Options,
    kept: Bool[Array, "n H W"] | None = None,
) -> LossAndAccuracy:
    """The mean of the losses of all pixels; those that are not `kept` add nothing to the sum."""

    def of_block(
        scores: Float[Array, "n r classes W"],
        labels: UInt8[Array, "n r W"],
        kept: Bool[Array, "n r W"],
    ) -> tuple[Array, ...]:
        losses = jnp.where(kept, pixel_losses(scores, labels, options), 0.0)
        return tuple(jnp.sum(part, axis=(1, 2)) for part in (losses, *hits(scores, labels)))

    kept = labels != IGNORED if kept is None else kept
    loss, right, counted = sums(of_block, logits, labels, align_corners, kept)
    loss = jnp.sum(loss)
    size = jnp.sum(counted).astype(loss.dtype) + EPSILON if options.avg_non_ignore else labels.size
    return result(loss / size, right, counted, logits, labels)


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
        found, gradient = _cross_entropy(scores, labels)
        some = jnp.einsum("nrcW,Ww->nrcw", gradient, to_columns, precision=PRECISION)
        gradient = jnp.einsum("nrh,nrcw->nhwc", to_rows, some, precision=PRECISION)
        return jax.tree.map(jnp.add, total, (found, gradient)), None

    none = jnp.zeros((), jnp.int32)
    zeros = Sums(jnp.zeros((), wide(logits.dtype)), none, none), jnp.zeros_like(logits)
    blocks = blocks_of(to_rows, bytes_per_row, 0), blocks_of(labels, bytes_per_row, IGNORED)
    return lax.scan(add_block, zeros, blocks)[0]


def _cross_entropy(
    scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> tuple[Sums, Float[Array, "n r classes W"]]:
    """The sums over all pixels, and the gradient of the sum of losses."""
    classes = scores.shape[2]
    counted, chosen = labels != IGNORED, is_label(scores, labels)
    peak = jnp.max(scores, axis=2, keepdims=True)
    exponentials = jnp.exp(scores - peak)
    total = jnp.sum(exponentials, axis=2, keepdims=True)
    picked = jnp.sum(jnp.where(chosen, scores - peak, 0.0), axis=2)
    picked = jnp.where(labels < classes, picked, jnp.nan)
    losses = jnp.where(counted, jnp.log(total[:, :, 0]) - picked, 0.0)
    right, _ = hits(scores, labels)
    gradient = exponentials / total - chosen.astype(scores.dtype)
    gradient = jnp.where(counted[:, :, None], gradient, 0.0)
    count = [jnp.sum(pixels, dtype=jnp.int32) for pixels in (right, counted)]
    return Sums(jnp.sum(losses), *count), gradient
