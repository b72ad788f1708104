"""Focal loss (arXiv 1708.02002, equation 5) of one binary classification a class.

With p = sigmoid(score) and t = 1 for the label's class, 0 for the others:

    -(a t + (1 - a) (1 - t)) (1 - p_t)^g log p_t,   p_t = p for t = 1, else 1 - p

It is the mean over all pixels and classes, in which ignored pixels count as 0. The scores exist for
a few rows at a time, once in the forward and once in the backward pass.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.config.schema import IGNORED, NotNegative, Probability
from nonlocal_jax.ops.score_blocks import hits, is_label, sums
from nonlocal_jax.training.losses.loss import (
    ClassWeights,
    Labels,
    Logits,
    Loss,
    LossAndAccuracy,
    by_class,
    count_problems,
    result,
)


@dataclass(frozen=True, kw_only=True)
class Options(ClassWeights):
    """Settings of the loss."""

    name: str = "focal"
    gamma: NotNegative = 2.0
    """The exponent g. 0: binary cross entropy."""
    alpha: Annotated[tuple[Probability, ...], MinLen(1)] = (0.5,)
    """The weight a of a class against all others: one number, or one for each class."""

    def problems(self, key: str, num_classes: int) -> list[str]:
        """See LossOptions."""
        alpha = self.alpha if len(self.alpha) > 1 else ()
        found = count_problems(f"{key}.alpha", alpha, num_classes)
        return super().problems(key, num_classes) + found


def build(options: Options) -> Loss:
    """The loss of a config."""
    return partial(_loss, options)


def _loss(options: Options, logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
    loss, right, counted = sums(partial(_of_block, options), logits, labels, align_corners)
    size = labels.size * logits.shape[3]
    return result(jnp.sum(loss) / size, right, counted, logits, labels)


def _of_block(
    options: Options, scores: Float[Array, "n r classes W"], labels: UInt8[Array, "n r W"]
) -> tuple[Array, ...]:
    """For each image: the sum of losses, pixels that are right, and that are labelled."""
    chosen = is_label(scores, labels)
    alpha, weights = (
        by_class(given, scores.shape[2], scores.dtype)[:, None]
        for given in (options.alpha, options.class_weights)
    )
    signed = jnp.where(chosen, scores, -scores)  # p_t = sigmoid(signed)
    share = jnp.where(chosen, alpha, 1 - alpha) * weights
    losses = share * jax.nn.sigmoid(-signed) ** options.gamma * jax.nn.softplus(-signed)
    losses = jnp.where((labels != IGNORED)[:, :, None], losses, 0.0)
    right, counted = (jnp.sum(part, axis=(1, 2)) for part in hits(scores, labels))
    return jnp.sum(losses, axis=(1, 2, 3)), right, counted
