"""Dice loss (V-Net, arXiv 1606.04797, section 3), averaged over images and classes.

For one image and class, with p the probabilities, t the labels as 0 or 1, and s for `smooth`:

    1 - (2 sum p t + s) / (sum p^e + sum t^e + s)

As in the reference, ignored pixels are in the denominator, where they count as the last class. The
sums of an image are found first, and the gradient needs them: that is a second pass over the
scores, which exist for a few rows at a time.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.config.schema import NotNegative, Positive
from nonlocal_jax.ops.score_blocks import hits, is_label, sums
from nonlocal_jax.training.losses.loss import (
    ClassWeights,
    Labels,
    Logits,
    Loss,
    LossAndAccuracy,
    by_class,
    result,
)


@dataclass(frozen=True, kw_only=True)
class Options(ClassWeights):
    """Settings of the loss."""

    name: str = "dice"
    smooth: NotNegative = 1.0
    """What is added to the numerator and the denominator. With 0, the loss is NaN for a class
    without any probability."""
    exponent: Positive = 2.0
    """The exponent in the denominator."""


def build(options: Options) -> Loss:
    """The loss of a config."""
    return partial(_loss, options)


def _loss(options: Options, logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
    is_there = jnp.ones_like(labels)  # but for rows that a block is filled up with
    overlap, total, right, counted = sums(
        partial(_of_block, options.exponent), logits, labels, align_corners, is_there
    )
    losses = 1 - (2 * overlap + options.smooth) / (total + options.smooth)
    weights = by_class(options.class_weights, losses.shape[1], losses.dtype)
    return result(jnp.mean(losses * weights), right, counted, logits, labels)


def _of_block(
    exponent: float,
    scores: Float[Array, "n r classes W"],
    labels: UInt8[Array, "n r W"],
    is_there: UInt8[Array, "n r W"],
) -> tuple[Array, ...]:
    """For each image and class: sums of p t, and of p^e + t^e; pixels that are right, labelled."""
    probabilities = jax.nn.softmax(scores, axis=2)
    chosen = is_label(scores, labels)
    clipped = is_label(scores, jnp.minimum(labels, jnp.uint8(scores.shape[2] - 1)))
    everywhere = probabilities**exponent + clipped.astype(scores.dtype)
    of_classes = (
        jnp.where(chosen, probabilities, 0.0),
        jnp.where((is_there > 0)[:, :, None], everywhere, 0.0),
    )
    overlap, total = (jnp.sum(part, axis=(1, 3)) for part in of_classes)
    right, counted = (jnp.sum(part, axis=(1, 2)) for part in hits(scores, labels))
    return overlap, total, right, counted
