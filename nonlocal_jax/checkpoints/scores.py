"""Which checkpoints of a run are kept for their scores."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from nonlocal_jax.checkpoints import folder as files


@dataclasses.dataclass(frozen=True)
class Step:
    """A checkpoint in the form that Orbax's policies take."""

    step: int
    time: Any = None
    metrics: Any = None


@dataclasses.dataclass
class Scores(policies.PreservationPolicy):  # type: ignore[misc]
    """Keeps the best step by its score, like Orbax's BestN, with scores that come after saving.

    Steps with a damaged score are kept, too, because any of them may be the best. All processes
    read the same scores at the start and get the same ones later, so they agree.

    Attributes:
      known: score by step.
      damaged: steps with a damaged score.
    """

    known: dict[int, float]
    damaged: set[int]

    @classmethod
    def read(cls, directory: pathlib.Path) -> Self:
        """The scores of all steps of a folder."""
        found = cls({}, set())
        for step in files.steps(directory):
            try:
                score = files.score(directory / str(step))
            except files.DamagedScoreError as error:
                logging.error("%s The checkpoint is kept.", error)
                found.damaged.add(step)
            else:
                found.known |= {} if score is None else {step: score}
        return found

    def add(self, step: int, score: float) -> None:
        """Takes the score of a step."""
        self.known[step] = score
        self.damaged.discard(step)

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: policies.PreservationContext
    ) -> Sequence[bool]:
        """Whether each checkpoint is kept for its score."""
        best = policies.BestN(
            get_metric_fn=lambda score: score, n=1, keep_checkpoints_without_metrics=False
        )
        scored = [Step(one.step, metrics=self._metric(one.step)) for one in checkpoints]
        kept: Iterable[bool] = best.should_preserve(scored, context=context)
        return [
            keep or one.step in self.damaged for keep, one in zip(kept, checkpoints, strict=True)
        ]

    def _metric(self, step: int) -> float | None:
        score = self.known.get(step)
        return score if score is not None and math.isfinite(score) else None
