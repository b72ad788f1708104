"""The scores of an evaluation, from its confusion matrix."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from jaxtyping import Float, Integer

from nonlocal_jax.config import schema, tables
from nonlocal_jax.evaluation.metrics import confusion as counts
from nonlocal_jax.evaluation.metrics.iou import iou
from nonlocal_jax.evaluation.worst import Judged


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The scores that the reference reports, by class and as means over classes.

    Scores are between 0 and 1. A score of a class that is 0/0 is NaN, for instance if the class is
    neither in the labels nor predicted. The mean leaves NaN out, as in MMSegmentation. If no pixel
    is labelled, all scores are NaN.

    Attributes:
      confusion: counts of pixels, by label (row) and prediction (column).
      class_names: one for each class; by default numbers.
      metrics: names of the table `metrics`, in the order of the columns.
      worst: the images of lowest accuracy, the worst first.

    Raises:
      UserError: there is no such metric.
    """

    confusion: Integer[np.ndarray, "classes classes"]
    class_names: Sequence[str] = ()
    metrics: tuple[str, ...] = schema.Eval.metrics
    worst: tuple[Judged, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.confusion)
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(str(i) for i in range(count)))
        if len(self.class_names) != count:
            raise ValueError(f"{len(self.class_names)} names for {count} classes")
        for name in self.metrics:
            find_metric(name)

    @property
    def pixels(self) -> int:
        """Number of labelled pixels that were evaluated."""
        return int(self.confusion.sum())

    @property
    def aacc(self) -> float:
        """Share of all labelled pixels that are predicted correctly."""
        found = counts.right(self.confusion).sum()
        return float(counts.ratio(found, self.confusion.sum()))

    @property
    def iou(self) -> Float[np.ndarray, "classes"]:
        """Intersection over union of every class."""
        return iou(self.confusion)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that have one."""
        return _mean(self.iou)

    @property
    def best_by(self) -> float:
        """The mean IoU, which the best checkpoint of a run has the largest of."""
        return self.miou

    @property
    def best_metric(self) -> str:
        """The name of `best_by` in the log."""
        return "miou"

    @property
    def headline(self) -> str:
        """The mean IoU in percent, with its name."""
        return f"mIoU {100 * self.miou:.2f}"

    def per_class(self, metric: str) -> Float[np.ndarray, "classes"]:
        """A score of every class, by its name in the table `metrics`."""
        compute: counts.Metric = find_metric(metric).build()
        return compute(self.confusion)

    def mean(self, metric: str) -> float:
        """The mean of a score over the classes that have one."""
        return _mean(self.per_class(metric))

    def to_dict(self) -> dict[str, float | int]:
        """The means, always with mIoU, and the number of pixels."""
        means = {key: value for key, _, value in self._means()}
        return {"aacc": self.aacc, "miou": self.miou, **means, "pixels": self.pixels}

    def by_class(self) -> dict[str, dict[str, float]]:
        """The IoU of every class by its name, for the log."""
        return {"iou": dict(zip(unique(self.class_names), self.iou.tolist(), strict=True))}

    def details(self) -> dict[str, object]:
        """All scores, the matrix and the worst images, as JSON can hold them: None for NaN."""
        columns = {_key(name): self.per_class(name) for name in self.metrics}
        classes = [
            {"name": name, **{key: _jsonable(float(column[i])) for key, column in columns.items()}}
            for i, name in enumerate(self.class_names)
        ]
        means = {name: _jsonable(value) for name, value in self.to_dict().items()}
        worst = [{"name": image.name, "accuracy": image.accuracy} for image in self.worst]
        return {
            **means,
            "classes": classes,
            "confusion": self.confusion.tolist(),
            "worst": worst,
        }

    def record(self) -> dict[str, object]:
        """What a run keeps of an evaluation: `details`."""
        return self.details()

    def summary(self) -> str:
        """The means in percent, on one line."""
        return "  ".join(f"{title} {_percent(value)}" for _, title, value in self._means())

    def table(self) -> str:
        """One line per class, in percent, and the means below."""
        width = max(len("class"), *(len(name) for name in self.class_names))
        columns = [self.per_class(name) for name in self.metrics]
        head = "".join(f"{find_metric(name).TITLE:>10}" for name in self.metrics)
        lines = [f"{'class':<{width}}{head}"]
        for index, name in enumerate(self.class_names):
            cells = "".join(f"{_percent(float(column[index])):>10}" for column in columns)
            lines.append(f"{name:<{width}}{cells}")
        return "\n".join([*lines, "", self.summary()])

    def _means(self) -> list[tuple[str, str, float]]:
        """Key, title and value of every mean that is reported."""
        found = [("aacc", "aAcc", self.aacc)]
        for name in self.metrics:
            title = find_metric(name).MEAN_TITLE
            if title:
                found.append((f"m{_key(name)}", title, self.mean(name)))
        return found


def find_metric(name: str) -> ModuleType:
    """The module of a metric, by its name in the table `metrics`.

    Raises:
      UserError: there is none.
    """
    return tables.find("metrics", name, "eval.metrics")


def unique(names: Sequence[str]) -> list[str]:
    """The names of classes; one that another class has, too, with its label behind it."""
    return [
        f"{name} ({label})" if list(names).count(name) > 1 else name
        for label, name in enumerate(names)
    ]


def _key(name: str) -> str:
    """The name of a metric in JSON; of a module of your own, its last part."""
    return name.rpartition(".")[2]


def _mean(values: Float[np.ndarray, "classes"]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean over no class: it is NaN
        return float(np.nanmean(values))


def _jsonable(value: float | int) -> float | int | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
