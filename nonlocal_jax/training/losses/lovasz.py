"""Lovász-softmax: a surrogate of the Jaccard index (arXiv 1705.08790, equations 8, 9 and 11).

For each class, the errors |t - p| of all labelled pixels are sorted, largest first, and multiplied
by how much each of them lowers the index (algorithm 1). The loss is the mean over classes.

A sort needs all pixels at once. So one class at a time has numbers at full resolution: its scores,
and where each pixel stands. Scores of all classes never exist together. The costs are a sort of all
pixels for each class and, on a mesh, that each device gathers what is sorted: the pixels of the
batch, or with `per_image` those of its images.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.ops.resize import resize_matrix
from nonlocal_jax.ops.score_blocks import PRECISION, hits, pixels
from nonlocal_jax.training.losses.loss import (
    ClassWeights,
    Labels,
    Logits,
    Loss,
    LossAndAccuracy,
    by_class,
    result,
)

OfImages = Float[Array, "n H W"]


@dataclass(frozen=True, kw_only=True)
class Options(ClassWeights):
    """Settings of the loss."""

    name: str = "lovasz"
    classes: Literal["present", "all"] = "present"
    """The classes of the mean: those that have labels, or all."""
    per_image: bool = False
    """Whether each image has a loss of its own. By default the batch is like one large image."""


def build(options: Options) -> Loss:
    """The loss of a config."""
    return partial(_loss, options)


def _loss(options: Options, logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
    log_sums, right, counted = pixels(_of_block, logits, labels, align_corners)
    loss = _sum_of_classes(options, align_corners, logits, log_sums, labels)
    return result(loss, right, counted, logits, labels)


def _of_block(
    scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> tuple[Array, ...]:
    """The logarithm of each pixel's sum of exponentials; whether it is right, and labelled."""
    return jax.nn.logsumexp(scores, axis=2), *hits(scores, labels)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum_of_classes(
    options: Options, align_corners: bool, logits: Logits, log_sums: OfImages, labels: Labels
) -> Float[Array, ""]:
    return _forward(options, align_corners, logits, log_sums, labels)[0]


def _forward(
    options: Options, align_corners: bool, logits: Logits, log_sums: OfImages, labels: Labels
) -> tuple[Float[Array, ""], tuple[Logits, OfImages]]:
    """The loss and its gradients: they are found class by class, so that each is sorted once."""
    shares = _shares(options, labels, logits)
    loss_and_gradient = jax.value_and_grad(partial(_of_class, options, align_corners), (0, 1))

    def add_class(
        total: tuple[Float[Array, ""], OfImages], one: tuple[Array, Int[Array, ""], Array]
    ) -> tuple[tuple[Float[Array, ""], OfImages], Float[Array, "n h w"]]:
        logits, number, share = one
        loss, (of_logits, of_sums) = loss_and_gradient(logits, log_sums, labels, number, share)
        return (total[0] + loss, total[1] + of_sums), of_logits

    numbers = jnp.arange(logits.shape[3], dtype=jnp.int32)
    start = jnp.zeros((), logits.dtype), jnp.zeros_like(log_sums)
    of_classes = jnp.moveaxis(logits, 3, 0), numbers, shares
    (loss, of_sums), of_logits = lax.scan(add_class, start, of_classes)
    return loss, (jnp.moveaxis(of_logits, 0, 3), of_sums)


def _backward(
    options: Options,
    align_corners: bool,
    gradients: tuple[Logits, OfImages],
    cotangent: Float[Array, ""],
) -> tuple[Logits, OfImages, None]:
    of_logits, of_sums = gradients
    return cotangent * of_logits, cotangent * of_sums, None


_sum_of_classes.defvjp(_forward, _backward)


def _shares(options: Options, labels: Labels, logits: Logits) -> Float[Array, "classes groups"]:
    """What the loss of each class of each group of images is multiplied by in the sum."""
    classes, groups = logits.shape[3], len(labels) if options.per_image else 1
    weights = by_class(options.class_weights, classes, logits.dtype)
    flat = labels.reshape(groups, -1)
    has_labels = jnp.any(flat != IGNORED, axis=1)[:, None]
    taken = jnp.broadcast_to(has_labels, (groups, classes))
    if options.classes == "present":
        numbers = jnp.arange(classes, dtype=labels.dtype)
        taken = lax.map(lambda number: jnp.any(flat == number, axis=1), numbers).T
    count = jnp.maximum(jnp.sum(taken, axis=1, dtype=jnp.int32), 1).astype(logits.dtype)
    return (jnp.where(taken, weights, 0.0) / count[:, None]).T / groups


def _of_class(
    options: Options,
    align_corners: bool,
    logits: Float[Array, "n h w"],
    log_sums: OfImages,
    labels: Labels,
    number: Int[Array, ""],
    share: Float[Array, "groups"],
) -> Float[Array, ""]:
    """The loss of one class, summed over groups of images, each times its share."""
    rows, columns = (
        resize_matrix(logits.shape[axis], labels.shape[axis], align_corners).astype(logits.dtype)
        for axis in (1, 2)
    )
    scores = jnp.einsum("Hh,nhw,Ww->nHW", rows, logits, columns, precision=PRECISION)
    is_class, counted = labels == number.astype(labels.dtype), labels != IGNORED
    probabilities = jnp.exp(scores - log_sums)
    errors = jnp.where(is_class, 1 - probabilities, probabilities)
    flat = [x.reshape(len(share), -1) for x in (errors, is_class, counted)]
    steps = jaccard_steps(lax.stop_gradient(flat[0]), *flat[1:])
    return jnp.sum(share * jnp.sum(flat[0] * steps, axis=1))


def jaccard_steps(
    errors: Float[Array, "groups pixels"],
    is_class: Bool[Array, "groups pixels"],
    counted: Bool[Array, "groups pixels"],
) -> Float[Array, "groups pixels"]:
    """How much each pixel adds to the Jaccard loss after all that have larger errors.

    This is algorithm 1 of the paper, and the result stands where the pixels stand.
    """
    place = lax.broadcasted_iota(jnp.int32, errors.shape, 1)
    keys = jnp.where(counted, -errors, jnp.inf)  # ignored pixels come last
    _, of_class, others, place = lax.sort((keys, is_class, counted & ~is_class, place), num_keys=1)
    found, missed = (jnp.cumsum(x, axis=1, dtype=jnp.int32) for x in (of_class, others))
    every = found[:, -1:]
    union = jnp.maximum(every + missed, 1)
    loss = 1 - (every - found).astype(errors.dtype) / union.astype(errors.dtype)
    steps = jnp.diff(loss, axis=1, prepend=jnp.zeros((), errors.dtype))
    groups = lax.broadcasted_iota(jnp.int32, place.shape, 0)
    back = jnp.zeros_like(steps).at[groups, place].set(steps, unique_indices=True)
    return jnp.where(counted, back, 0.0)
