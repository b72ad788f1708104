"""The interface of losses: functions of a head's logits and the labels."""

from collections.abc import Callable
from typing import NamedTuple, cast

from jaxtyping import Array, Float, UInt8

from nonlocal_jax.config import tables
from nonlocal_jax.config.schema import LossOptions

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


def make_loss(options: LossOptions) -> Loss:
    """The loss that a config names."""
    return cast(Loss, tables.find("losses", options.name, "loss.name").build(options))
