"""Accuracy of a class: its recall."""

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
    """Share of the pixels of a class that are predicted as it."""
    return ratio(right(confusion), labelled(confusion))
