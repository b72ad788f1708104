"""The interface of losses: functions of a head's logits and the labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from nonlocal_jax.config import tables
from nonlocal_jax.config.schema import IGNORED, LossOptions, NotNegative
from nonlocal_jax.errors import counted

Logits = Float[Array, "n h w classes"]
Labels = UInt8[Array, "n H W"]


class LossAndAccuracy(NamedTuple):
    """The loss and the accuracy of one head on one batch.

    Attributes:
      loss: what training minimises.
      accuracy: share of the labelled pixels whose label has the largest score; among equal scores
        the first class counts. NaN if no pixel is labelled.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


Loss = Callable[[Logits, Labels, bool], LossAndAccuracy]
"""From float32 logits, labels and align_corners; logits are resized to the labels' size."""


@dataclass(frozen=True, kw_only=True)
class ClassWeights(LossOptions):
    """Settings of losses whose classes may have weights."""

    class_weights: tuple[NotNegative, ...] = ()
    """The weight of each class, in label order. Empty: 1 for all."""

    def problems(self, key: str, num_classes: int) -> list[str]:
        """See LossOptions."""
        return count_problems(f"{key}.class_weights", self.class_weights, num_classes)


def count_problems(key: str, given: Sequence[float], num_classes: int) -> list[str]:
    """A sentence if numbers of the classes are given, and not one for each class."""
    if len(given) in (0, num_classes):
        return []
    return [
        f"config.{key} has {counted(len(given), 'number')}, and config.model.num_classes is "
        f"{num_classes}: there must be one for each class, in label order."
    ]


def make_loss(options: LossOptions, key: str = "loss") -> Loss:
    """The loss that a config names in its section `key`."""
    return cast(Loss, tables.find("losses", options.name, f"{key}.name").build(options))


def by_class(weights: Sequence[float], classes: int, dtype: DTypeLike) -> Float[Array, "classes"]:
    """The weights of the classes: as given, the one that is given, or 1."""
    one = weights[0] if weights else 1.0
    return jnp.asarray(weights if len(weights) > 1 else (one,) * classes, dtype)


def result(
    loss: Float[Array, ""], right: Array, counted: Array, logits: Logits, labels: Labels
) -> LossAndAccuracy:
    """The loss, which is NaN if a label is neither 255 nor a class, and the accuracy.

    Args:
      loss: of the batch.
      right, counted: numbers of pixels, in parts.
      logits: whose loss it is.
      labels: theirs.
    """
    wrong = jnp.any((labels >= logits.shape[3]) & (labels != IGNORED))
    right, counted = (jnp.sum(part).astype(loss.dtype) for part in (right, counted))
    return LossAndAccuracy(jnp.where(wrong, jnp.nan, loss), right / counted)
