"""Softmax cross entropy of one label for each example, and the accuracy."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nonlocal_jax.config.schema import LossOptions
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.training.losses.loss import LossAndAccuracy

TASK = "video"
Logits = Float[Array, "n classes"]
Labels = Int[Array, "n"]
Loss = Callable[[Logits, Labels], LossAndAccuracy]


@dataclass(frozen=True, kw_only=True)
class Options(LossOptions):
    """This loss has no settings."""

    name: str = "classification"


def build(options: Options) -> Loss:
    """The loss of a config."""
    return classification_loss


def classification_loss(logits: Logits, labels: Labels) -> LossAndAccuracy:
    """The mean over the examples of -log softmax(logits)[label].

    The loss is NaN if a label is no class.
    """
    logits = float32_or_wider(logits)
    chosen = jnp.take_along_axis(
        jax.nn.log_softmax(logits), labels[:, None], axis=1, mode="fill", fill_value=jnp.nan
    )
    right = jnp.argmax(logits, axis=1) == labels
    return LossAndAccuracy(-jnp.mean(chosen), jnp.mean(right, dtype=logits.dtype))
