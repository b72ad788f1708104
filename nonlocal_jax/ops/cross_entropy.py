"""Softmax cross entropy of logits that are resized to their labels, on a GPU.

Each pixel's scores are made from their taps where they are needed, so that at full resolution
there is one number a pixel: the logarithm of the sum of its exponentials. The gradient goes back
the same way: each logit is the sum over the pixels that it is a tap of. On other platforms
training/losses/cross_entropy.py computes a few rows at a time.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.ops.cross_entropy_kernel import kernel_supports, loss_and_gradient
from nonlocal_jax.ops.taps import (
    Axis,
    Taps,
    first_largest,
    interpolate_columns,
    interpolate_rows,
    resize_taps,
    reversed_taps,
)

Form = Literal["kernel", "taps"]
FORM: Form = "kernel"

Logits = Float[Array, "n h w classes"]
Labels = UInt8[Array, "n H W"]


class Sums(NamedTuple):
    """What rows add up to: losses, and how many pixels are right, and labelled."""

    loss: Float[Array, ""]
    right: Int[Array, ""]
    counted: Int[Array, ""]


def cross_entropy(
    logits: Logits,
    labels: Labels,
    first: Int[Array, ""],
    rows: Axis,
    columns: Axis,
    form: Form | None = None,
) -> tuple[Sums, Logits]:
    """The sums over all labels but those that are 255, and the gradient of the sum of losses.

    Args:
      logits: at their own resolution, all rows of them.
      labels: consecutive rows of the labels. If one is neither a class nor 255, the loss is NaN.
      first: the index of the first of these rows.
      rows: how all rows are resized.
      columns: how all columns are resized.
      form: "kernel" or "taps", XLA's own; the module's FORM by default.
    """
    if (form or FORM) == "kernel" and kernel_supports(logits):
        sums, gradient = loss_and_gradient(logits, labels, first, rows, columns)
        return Sums(*sums), gradient
    row_taps, column_taps = resize_taps(rows), resize_taps(columns)
    place = first + jnp.arange(labels.shape[1], dtype=jnp.int32)
    local = Taps(*(jnp.take(jnp.asarray(x), place, axis=0, mode="clip") for x in row_taps))
    # The barriers keep kernels apart: each would make anew, for every class, what it reads.
    some = lax.optimization_barrier(interpolate_rows(logits, local))
    scores = interpolate_columns(some, column_taps)
    counted = labels != IGNORED
    largest = lax.optimization_barrier(jnp.max(scores, axis=-1))
    right = (first_largest(scores) == labels.astype(jnp.int32)) & counted
    total = jnp.sum(jnp.exp(scores - largest[..., None]), axis=-1)
    log_sum = lax.optimization_barrier(largest + jnp.log(total))
    losses = jnp.where(counted, log_sum - _picked(some, labels, column_taps), 0.0)
    gradient = _column_gradient(some, labels, log_sum, column_taps)
    gradient = _row_gradient(lax.optimization_barrier(gradient), first, row_taps, rows.source)
    counts = [jnp.sum(pixels, dtype=jnp.int32) for pixels in (right, counted)]
    return Sums(jnp.sum(losses), *counts), gradient


def _picked(
    some: Float[Array, "n H w classes"], labels: Labels, columns: Taps
) -> Float[Array, "n H W"]:
    """Each pixel's score of its label; NaN where that is no class."""
    classes = some.shape[-1]
    image, row = jnp.ogrid[: labels.shape[0], : labels.shape[1]]
    index = jnp.minimum(labels, classes - 1).astype(jnp.int32)
    total = jnp.zeros(labels.shape, some.dtype)
    for tap in range(columns.place.shape[1]):
        weight = jnp.asarray(columns.weight[:, tap]).astype(some.dtype)
        total += weight * some[image[..., None], row[..., None], columns.place[:, tap], index]
    return jnp.where(labels < classes, total, jnp.nan)


def _column_gradient(
    some: Float[Array, "n H w classes"],
    labels: Labels,
    log_sum: Float[Array, "n H W"],
    columns: Taps,
) -> Float[Array, "n H w classes"]:
    """The gradient of `some`: each column is the sum over the pixels that it is a tap of.

    Such a pixel's scores are a sum over this column and its two neighbours.
    """
    width = some.shape[2]
    back = reversed_taps(columns, width)
    own = np.arange(width)
    neighbours = [
        some if not offset else jnp.take(some, np.clip(own + offset, 0, width - 1), axis=2)
        for offset in (-1, 0, 1)
    ]
    classes = jnp.arange(some.shape[-1], dtype=jnp.int32)
    total = jnp.zeros_like(some)
    for tap in range(back.place.shape[1]):
        pixel, weight = back.place[:, tap], back.weight[:, tap]
        lower, upper = columns.place[pixel].T
        of_lower, of_upper = columns.weight[pixel].T
        score = jnp.zeros_like(some)
        for offset, x in zip((-1, 0, 1), neighbours, strict=True):
            share = of_lower * (lower == own + offset) + of_upper * (upper == own + offset)
            score += jnp.asarray(share, some.dtype)[:, None] * x
        label = jnp.take(labels, pixel, axis=2)[..., None].astype(jnp.int32)
        probability = jnp.exp(score - jnp.take(log_sum, pixel, axis=2)[..., None])
        difference = probability - (label == classes).astype(some.dtype)
        counted: Bool[Array, "n H w 1"] = label != IGNORED
        zero = jnp.zeros((), some.dtype)
        total += jnp.where(counted, jnp.asarray(weight, some.dtype)[:, None], zero) * difference
    return total


def _row_gradient(
    some: Float[Array, "n rows w classes"], first: Int[Array, ""], rows: Taps, height: int
) -> Logits:
    """Each row of logits is the sum over the rows here that it is a tap of."""
    back = reversed_taps(rows, height)
    place = back.place - first
    here = (place >= 0) & (place < some.shape[1])
    weight = jnp.where(here, jnp.asarray(back.weight), 0.0)
    return interpolate_rows(some, Taps(jnp.clip(place, 0, some.shape[1] - 1), weight))
