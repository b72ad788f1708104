"""Accuracy of a class, which is its recall."""

from nonlocal_jax.evaluation.metrics.confusion import (
    Confusion,
    Metric,
    PerClass,
    labelled,
    ratio,
    right,
)

TITLE = "Acc"
MEAN_TITLE = "mAcc"


def build() -> Metric:
    """The function from a confusion matrix to the accuracy of every class."""
    return accuracy


def accuracy(confusion: Confusion) -> PerClass:
    """Share of a class's pixels that were found."""
    return ratio(right(confusion), labelled(confusion))
