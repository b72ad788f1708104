"""Online hard example mining: cross entropy of the hard pixels alone (arXiv 1604.03540).

A first pass finds how hard each pixel is, one number a pixel, and a second one computes the cross
entropy of those that are chosen. Between them, the number at a rank is found bit by bit, by
counting over all pixels: devices exchange counts, and nothing is sorted. No scores exist at full
resolution. The cost is one more pass over them, and a count of all pixels for every bit.

A hard pixel is defined over the batch, so `min_kept` is multiplied by the number of images.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from nonlocal_jax.config.schema import IGNORED, Count, Probability
from nonlocal_jax.ops.score_blocks import is_label, pixels
from nonlocal_jax.training.losses import cross_entropy
from nonlocal_jax.training.losses.cross_entropy import mean_of_pixels, pixel_losses
from nonlocal_jax.training.losses.loss import Labels, Logits, Loss, LossAndAccuracy

Map = Float[Array, "n H W"]


@dataclass(frozen=True, kw_only=True)
class Options(cross_entropy.Options):
    """Settings of the loss."""

    name: str = "ohem"
    by: Literal["probability", "loss"] = "probability"
    """What makes a pixel hard. probability: that of its label is below `threshold`, or among the
    `min_kept` smallest of an image. loss: it is among the `min_kept` largest of an image."""
    threshold: Probability = 0.7
    """Pixels with a smaller probability of their label are kept."""
    min_kept: Count = 100_000
    """Number of pixels for each image of the batch that are kept at least."""


def build(options: Options) -> Loss:
    """The loss of a config."""
    return partial(_loss, options)


def _loss(options: Options, logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
    kept = hard_pixels(options, lax.stop_gradient(logits), labels, align_corners)
    return mean_of_pixels(logits, labels, align_corners, options, kept)


def hard_pixels(
    options: Options, logits: Logits, labels: Labels, align_corners: bool
) -> Bool[Array, "n H W"]:
    """Which labelled pixels are kept."""
    least = options.min_kept * labels.shape[0]
    counted = labels != IGNORED
    count = jnp.sum(counted, dtype=jnp.int32)
    if options.by == "loss":
        losses = pixels(partial(_of_block, options), logits, labels, align_corners)
        return _largest(jnp.where(counted, losses, jnp.inf), counted, least)
    probabilities = pixels(_probabilities, logits, labels, align_corners)
    rank = jnp.clip(count - 1, 0, least)
    limit = number_at(jnp.where(counted, probabilities, jnp.inf), rank)
    limit = jnp.maximum(jnp.where(count > 0, limit, 0.0), options.threshold)
    return jnp.logical_and(counted, probabilities < limit)


def number_at(values: Map, rank: Int[Array, ""]) -> Float[Array, ""]:
    """The value with `rank` others before it in ascending order; no value is negative or NaN.

    The bits of such floats have the order of the floats. The largest prefix that at most `rank`
    values are below is that of the result.
    """
    bits = 8 * values.dtype.itemsize
    integer = jnp.dtype(f"uint{bits}")
    keys = lax.bitcast_convert_type(values, integer)

    def add_bit(number: Int[Array, ""], prefix: Array) -> Array:
        bit = jnp.left_shift(jnp.ones((), integer), (bits - 1 - number).astype(integer))
        below = jnp.sum(keys < (prefix | bit), dtype=jnp.int32)
        return jnp.where(below <= rank, prefix | bit, prefix)

    found = lax.fori_loop(0, bits, add_bit, jnp.zeros((), integer))
    return lax.bitcast_convert_type(found, values.dtype)


def _largest(losses: Map, counted: Bool[Array, "n H W"], least: int) -> Bool[Array, "n H W"]:
    """The `least` largest of the counted losses; the first ones where they are equal."""
    count = jnp.sum(counted, dtype=jnp.int32)
    limit = number_at(losses, jnp.maximum(count - least, 0))
    above, equal = counted & (losses > limit), counted & (losses == limit)
    places = jnp.cumsum(equal.ravel(), dtype=jnp.int32).reshape(equal.shape)
    return above | (equal & (places <= least - jnp.sum(above, dtype=jnp.int32)))


def _of_block(
    options: Options, scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> Float[Array, "n r W"]:
    return jnp.maximum(pixel_losses(scores, labels, options), 0.0)  # no -0, for its bits


def _probabilities(
    scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> Float[Array, "n r W"]:
    """The probability of each pixel's label; 0 where it is ignored."""
    probabilities = jax.nn.softmax(scores, axis=2)
    return jnp.sum(jnp.where(is_label(scores, labels), probabilities, 0.0), axis=2)
