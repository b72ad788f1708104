"""What an evaluation that writes to a folder returns, for either task."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Scores = TypeVar("Scores")


@dataclass(frozen=True, eq=False)
class Result(Generic[Scores]):
    """The result of an evaluation.

    Attributes:
      scores: of the examples that could be read.
      left_out: the reason for each example that this process could not read.
      total: number of examples in the split.
      unit: what they are called.
    """

    scores: Scores
    left_out: list[str]
    total: int
    unit: str
