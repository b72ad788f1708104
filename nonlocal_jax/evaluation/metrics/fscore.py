"""F-score: the harmonic mean of precision and recall."""

from nonlocal_jax.evaluation.metrics.accuracy import accuracy
from nonlocal_jax.evaluation.metrics.confusion import Confusion, Metric, PerClass, ratio
from nonlocal_jax.evaluation.metrics.precision import precision

TITLE = "Fscore"
MEAN_TITLE = "mFscore"


def build() -> Metric:
    """The function from a confusion matrix to the F-score of every class."""
    return fscore


def fscore(confusion: Confusion) -> PerClass:
    """Harmonic mean of precision and recall; unlike Dice, NaN for a class never predicted."""
    p, r = precision(confusion), accuracy(confusion)
    return ratio(2 * p * r, p + r)
