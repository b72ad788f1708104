"""Precision: the share of the pixels predicted as a class that have its label."""

from nonlocal_jax.evaluation.metrics.confusion import (
    Confusion,
    Metric,
    PerClass,
    predicted,
    ratio,
    right,
)

TITLE = "Precision"
MEAN_TITLE = ""  # its mean is not reported, as in MMSegmentation


def build() -> Metric:
    """The function from a confusion matrix to the precision of every class."""
    return precision


def precision(confusion: Confusion) -> PerClass:
    """Share of the pixels predicted as a class that have its label."""
    return ratio(right(confusion), predicted(confusion))
