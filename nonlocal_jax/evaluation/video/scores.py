"""The scores of a test on videos: how many have the right class first, or among the first five."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

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
        rows = []
        for label, name in enumerate(self.class_names):
            mine = self.counted & (self.labels == label)
            if mine.any():
                rows.append((float(np.mean(self.ranks[mine] == 0)), int(mine.sum()), name))
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

    def details(self) -> dict[str, object]:
        """All scores, and the first classes of each video, as JSON can hold them."""
        videos = [
            {
                "name": name,
                "label": self.class_names[label],
                "classes": [self.class_names[c] for c in classes],
                "probabilities": [round(float(p), 6) for p in probabilities],
            }
            for name, label, rank, classes, probabilities in zip(
                self.names,
                self.labels.tolist(),
                self.ranks.tolist(),
                self.classes.tolist(),
                self.probabilities,
                strict=True,
            )
            if rank != LEFT_OUT
        ]
        return {**self.to_dict(), "predictions": videos}


def rank_of(probabilities: Float[np.ndarray, "classes"], label: int) -> int:
    """How many classes come before `label`: of equal ones, the first comes first."""
    mine = probabilities[label]
    before = np.sum(probabilities > mine) + np.sum(probabilities[:label] == mine)
    return int(before)


def first_classes(probabilities: Float[np.ndarray, "classes"]) -> Int[np.ndarray, "shown"]:
    """The classes of the largest probabilities, in order; of equal ones, the first comes first."""
    return np.argsort(-probabilities, kind="stable")[:SHOWN]
