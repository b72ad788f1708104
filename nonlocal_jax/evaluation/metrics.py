"""How good predictions are: a confusion matrix, counted on the device, and the scores it gives."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

IGNORE = 255


def confusion_matrix(
    predictions: UInt8[Array, "*pixels"], labels: UInt8[Array, "*pixels"], num_classes: int
) -> Int[Array, "{num_classes} {num_classes}"]:
    """Counts of pixels by label (row) and prediction (column), int32.

    Labels and predictions that are no class, 255 above all, are left out. One call counts up to
    2^31 pixels; add calls up in int64 on the host.
    """
    labels = labels.ravel().astype(jnp.int32)
    predictions = predictions.ravel().astype(jnp.int32)
    return lax.platform_dependent(
        labels,
        predictions,
        cpu=lambda labels, predictions: _count_by_scatter(labels, predictions, num_classes),
        default=lambda labels, predictions: _count_by_product(labels, predictions, num_classes),
    )


def _count_by_scatter(
    labels: Int[Array, "pixels"], predictions: Int[Array, "pixels"], num_classes: int
) -> Int[Array, "classes classes"]:
    """Adds one per pixel to its cell; uncounted pixels fall outside and are dropped."""
    counted = (labels < num_classes) & (predictions < num_classes)
    cell = jnp.where(counted, labels * num_classes + predictions, num_classes**2)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


def _count_by_product(
    labels: Int[Array, "pixels"], predictions: Int[Array, "pixels"], num_classes: int
) -> Int[Array, "classes classes"]:
    """The product of both one-hot codes: accelerators multiply faster than they scatter.

    The codes are exact in bfloat16, and so are float32 sums of up to 2^24 of them.
    """
    chunk = 2**20
    missing = -labels.size % chunk
    labels = jnp.pad(labels, (0, missing), constant_values=IGNORE).reshape(-1, chunk)
    predictions = jnp.pad(predictions, (0, missing)).reshape(-1, chunk)

    def add(
        counts: Int[Array, "classes classes"], pixels: tuple[Array, Array]
    ) -> tuple[Int[Array, "classes classes"], None]:
        one_hot_label, one_hot_prediction = (
            jax.nn.one_hot(part, num_classes, dtype=jnp.bfloat16) for part in pixels
        )
        product = jnp.einsum(
            "pl,pq->lq",
            one_hot_label,
            one_hot_prediction,
            preferred_element_type=jnp.float32,
        )
        return counts + product.astype(jnp.int32), None

    zeros = jnp.zeros((num_classes, num_classes), jnp.int32)
    return lax.scan(add, zeros, (labels, predictions))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Everything that the reference's benchmarks report, from one confusion matrix.

    Shares are between 0 and 1. Where a class makes one 0/0 - it is neither in the labels nor
    predicted, say - it is NaN there, and the mean over classes leaves it out, as in MMSegmentation.

    Attributes:
      confusion: int64 counts of pixels, by label (row) and prediction (column).
      class_names: one per class; numbers where there are none.
    """

    confusion: Int[np.ndarray, "classes classes"]
    class_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        count = len(self.confusion)
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(str(i) for i in range(count)))
        if len(self.class_names) != count:
            raise ValueError(f"{len(self.class_names)} names for {count} classes")

    @property
    def pixels(self) -> int:
        """Number of labelled pixels that were evaluated."""
        return int(self.confusion.sum())

    @property
    def iou(self) -> Float[np.ndarray, "classes"]:
        """Intersection over union."""
        return _ratio(self._right, self._labelled + self._predicted - self._right)

    @property
    def acc(self) -> Float[np.ndarray, "classes"]:
        """Share of a class's pixels that were found (recall)."""
        return _ratio(self._right, self._labelled)

    @property
    def precision(self) -> Float[np.ndarray, "classes"]:
        """Share of the pixels predicted as a class that are of it."""
        return _ratio(self._right, self._predicted)

    @property
    def dice(self) -> Float[np.ndarray, "classes"]:
        """Twice the intersection over the sum of both areas."""
        return _ratio(2 * self._right, self._labelled + self._predicted)

    @property
    def fscore(self) -> Float[np.ndarray, "classes"]:
        """Harmonic mean of precision and recall; unlike `dice`, NaN for a class never predicted."""
        precision, recall = self.precision, self.acc
        return _ratio(2 * precision * recall, precision + recall)

    @property
    def aacc(self) -> float:
        """Share of all labelled pixels that were right."""
        return float(_ratio(self._right.sum(), self._labelled.sum()))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that have one."""
        return _mean(self.iou)

    @property
    def macc(self) -> float:
        """Mean accuracy over the classes in the labels."""
        return _mean(self.acc)

    @property
    def mdice(self) -> float:
        """Mean Dice over the classes that have one."""
        return _mean(self.dice)

    @property
    def mfscore(self) -> float:
        """Mean F-score over the classes that have one."""
        return _mean(self.fscore)

    def to_dict(self) -> dict[str, float]:
        """The five means and the number of pixels."""
        return {**{name: getattr(self, name) for name in _MEANS}, "pixels": self.pixels}

    def details(self) -> dict[str, object]:
        """Means, scores of every class and the matrix, as JSON can hold them: None for NaN."""
        classes = [
            {"name": name, **{key: _jsonable(float(getattr(self, key)[i])) for key in _PER_CLASS}}
            for i, name in enumerate(self.class_names)
        ]
        means = {name: _jsonable(value) for name, value in self.to_dict().items()}
        return {**means, "classes": classes, "confusion": self.confusion.tolist()}

    def summary(self) -> str:
        """The five means in percent, on one line."""
        return "  ".join(f"{label} {_percent(getattr(self, n))}" for n, label in _MEANS.items())

    def table(self) -> str:
        """One line per class, in percent, and the means below."""
        width = max(len("class"), *(len(name) for name in self.class_names))
        columns = [getattr(self, name) for name in _PER_CLASS]
        head = "".join(f"{label:>10}" for label in _PER_CLASS.values())
        lines = [f"{'class':<{width}}{head}"]
        for index, name in enumerate(self.class_names):
            cells = "".join(f"{_percent(column[index]):>10}" for column in columns)
            lines.append(f"{name:<{width}}{cells}")
        return "\n".join([*lines, "", self.summary()])

    @property
    def _right(self) -> Int[np.ndarray, "classes"]:
        return np.diagonal(self.confusion)

    @property
    def _labelled(self) -> Int[np.ndarray, "classes"]:
        return self.confusion.sum(axis=1)

    @property
    def _predicted(self) -> Int[np.ndarray, "classes"]:
        return self.confusion.sum(axis=0)


_MEANS = {
    "aacc": "aAcc",
    "miou": "mIoU",
    "macc": "mAcc",
    "mdice": "mDice",
    "mfscore": "mFscore",
}
_PER_CLASS = {
    "iou": "IoU",
    "acc": "Acc",
    "dice": "Dice",
    "fscore": "Fscore",
    "precision": "Precision",
}


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    return np.where(np.asarray(denominator) == 0, np.nan, quotient)


def _mean(values: Float[np.ndarray, "classes"]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean over no class: it is NaN
        return float(np.nanmean(values))


def _jsonable(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
