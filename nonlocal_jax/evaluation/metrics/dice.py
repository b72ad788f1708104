"""Dice: twice the intersection over the sum of both areas."""

from nonlocal_jax.evaluation.metrics.confusion import (
    Confusion,
    Metric,
    PerClass,
    labelled,
    predicted,
    ratio,
    right,
)

TITLE = "Dice"
MEAN_TITLE = "mDice"


def build() -> Metric:
    """The function from a confusion matrix to the Dice score of every class."""
    return dice


def dice(confusion: Confusion) -> PerClass:
    """Twice the intersection over the sum of both areas."""
    return ratio(2 * right(confusion), labelled(confusion) + predicted(confusion))
