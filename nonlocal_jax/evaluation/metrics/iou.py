"""Intersection over union."""

from nonlocal_jax.evaluation.metrics.confusion import (
    Confusion,
    Metric,
    PerClass,
    labelled,
    predicted,
    ratio,
    right,
)

TITLE = "IoU"
MEAN_TITLE = "mIoU"


def build() -> Metric:
    """The function from a confusion matrix to the IoU of every class."""
    return iou


def iou(confusion: Confusion) -> PerClass:
    """Pixels of a class predicted as it, over the pixels labelled or predicted as it."""
    found = right(confusion)
    return ratio(found, labelled(confusion) + predicted(confusion) - found)
