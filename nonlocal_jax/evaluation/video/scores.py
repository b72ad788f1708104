"""The scores of a test on videos: how many have the right class first, or among the first five."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from nonlocal_jax.evaluation.metrics.scores import unique
from nonlocal_jax.evaluation.worst import KEPT

SHOWN = 5  # classes of a video that are kept
LEFT_OUT = -1


@dataclasses.dataclass(frozen=True, eq=False)
class VideoScores:
    """The results of some videos.

    Attributes:
      names: of the videos.
      labels: their classes.
      ranks: how many classes come before the right one, by probability; LEFT_OUT (-1) for a video
        that could not be read.
      classes: of the largest probabilities of each video, in order.
      probabilities: these, averaged over the views.
      class_names: one for each label.
    """

    names: Sequence[str]
    labels: Int[np.ndarray, "videos"]
    ranks: Int[np.ndarray, "videos"]
    classes: Int[np.ndarray, "videos shown"]
    probabilities: Float[np.ndarray, "videos shown"]
    class_names: Sequence[str]

    @property
    def counted(self) -> Bool[np.ndarray, "videos"]:
        """Which videos could be read."""
        return np.asarray(self.ranks != LEFT_OUT)

    @property
    def videos(self) -> int:
        """Number of videos that could be read."""
        return int(self.counted.sum())

    def top(self, count: int) -> float:
        """Share of the videos whose class is among the first `count`; NaN if there is no video."""
        if not self.videos:
            return float("nan")
        return float(np.mean(self.ranks[self.counted] < count))

    @property
    def top1(self) -> float:
        """Share of the videos whose class comes first."""
        return self.top(1)

    @property
    def top5(self) -> float:
        """Share of the videos whose class is among the first five."""
        return self.top(5)

    @property
    def best_by(self) -> float:
        """The top-1 accuracy, which the best checkpoint of a run has the largest of."""
        return self.top1

    @property
    def best_metric(self) -> str:
        """The name of `best_by` in the log."""
        return "top1"

    @property
    def headline(self) -> str:
        """The top-1 accuracy in percent, with its name."""
        return f"top-1 {100 * self.top1:.2f}"

    def to_dict(self) -> dict[str, float | int]:
        """All scores."""
        return {"top1": self.top1, "top5": self.top5, "videos": self.videos}

    def summary(self) -> str:
        """All scores on one line."""
        return f"top-1 {100 * self.top1:.2f}  top-5 {100 * self.top5:.2f}  videos {self.videos}"

    def table(self) -> str:
        """The classes with most and fewest right videos, in percent, and all scores below.

        Of up to twenty classes, all are shown; of more, the ten best and the ten worst.
        """
        rows = [(share, count, name) for name, share, count in self._classes() if count]
        rows.sort(key=lambda row: (-row[0], row[2]))
        shown = rows if len(rows) <= 20 else [*rows[:10], None, *rows[-10:]]
        width = max([len("class"), *(len(name) for _, _, name in rows)])
        lines = [f"{'class':<{width}}{'top-1':>8}{'videos':>8}"]
        for row in shown:
            if row is None:
                lines.append("...")
            else:
                lines.append(f"{row[2]:<{width}}{100 * row[0]:>8.2f}{row[1]:>8}")
        return "\n".join([*lines, "", self.summary()])

    def by_class(self) -> dict[str, dict[str, float]]:
        """The top-1 accuracy of every class by its name, NaN without a video, for the log."""
        shares = [share for _, share, _ in self._classes()]
        return {"top1_by_class": dict(zip(unique(self.class_names), shares, strict=True))}

    def details(self) -> dict[str, object]:
        """All scores, and the first classes of each video, as JSON can hold them."""
        videos = [self._prediction(number) for number in np.flatnonzero(self.counted).tolist()]
        return {**self._jsonable(), "predictions": videos}

    def record(self) -> dict[str, object]:
        """What a run keeps of an evaluation, as JSON can hold it: None for NaN.

        All scores, also by class, the confusion matrix of the first classes, by label (row), and
        the videos whose class comes last.
        """
        counted = np.flatnonzero(self.counted)
        confusion = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(confusion, (self.labels[counted], self.classes[counted, 0]), 1)
        wrong = [number for number in counted.tolist() if self.ranks[number] > 0]
        wrong.sort(key=lambda number: (-self.ranks[number], self.names[number]))
        classes = [
            {"name": name, "top1": None if np.isnan(share) else share, "videos": count}
            for name, share, count in self._classes()
        ]
        return {
            **self._jsonable(),
            "classes": classes,
            "confusion": confusion.tolist(),
            "worst": [self._prediction(number) for number in wrong[:KEPT]],
        }

    def _classes(self) -> list[tuple[str, float, int]]:
        """Name, share of videos with the right class, and number of videos of every class."""
        found = []
        for label, name in enumerate(self.class_names):
            ranks = self.ranks[self.counted & (self.labels == label)]
            share = float(np.mean(ranks == 0)) if len(ranks) else float("nan")
            found.append((name, share, len(ranks)))
        return found

    def _prediction(self, number: int) -> dict[str, object]:
        """What is told of one video."""
        return {
            "name": self.names[number],
            "label": self.class_names[int(self.labels[number])],
            "classes": [self.class_names[c] for c in self.classes[number].tolist()],
            "probabilities": [round(float(p), 6) for p in self.probabilities[number]],
        }

    def _jsonable(self) -> dict[str, object]:
        return {k: None if np.isnan(value) else value for k, value in self.to_dict().items()}


def rank_of(probabilities: Float[np.ndarray, "classes"], label: int) -> int:
    """How many classes come before `label`: of equal ones, the first comes first."""
    mine = probabilities[label]
    before = np.sum(probabilities > mine) + np.sum(probabilities[:label] == mine)
    return int(before)


def first_classes(probabilities: Float[np.ndarray, "classes"]) -> Int[np.ndarray, "shown"]:
    """The classes of the largest probabilities, in order; of equal ones, the first comes first."""
    return np.argsort(-probabilities, kind="stable")[:SHOWN]
