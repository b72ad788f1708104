"""Precision: how much of what is predicted as a class is of it."""

from nonlocal_jax.evaluation.metrics.confusion import (
    Confusion,
    Metric,
    PerClass,
    predicted,
    ratio,
    right,
)

TITLE = "Precision"
MEAN_TITLE = ""  # its mean is not told, as in MMSegmentation's usual table


def build() -> Metric:
    """The function from a confusion matrix to the precision of every class."""
    return precision


def precision(confusion: Confusion) -> PerClass:
    """Share of the pixels predicted as a class that are of it."""
    return ratio(right(confusion), predicted(confusion))
