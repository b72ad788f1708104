"""The order of a run's training examples, and the rows of each batch that a host makes."""

from collections.abc import Sequence
from typing import Any

import grain

from nonlocal_jax.errors import UserError

ENDLESS = 1 << 60  # examples; grain adds to it in 64 bits


def in_order(examples: Any, seed: int) -> grain.MapDataset:
    """The endless order of a run's examples. Each epoch is shuffled anew.

    Args:
      examples: a sequence of them, or of their indices.
      seed: of the run.
    """
    return grain.MapDataset.source(examples).seed(seed).shuffle().repeat()


def batch_indices(count: int, step: int, batch_size: int, seed: int) -> list[int]:
    """Indices of the examples in the global batch of a step (from 1), of `count` examples."""
    order = in_order(range(count), seed)
    return [int(order[(step - 1) * batch_size + row]) for row in range(batch_size)]


def describe_batch(what: str, indices: Sequence[int]) -> str:
    """A sentence that says which examples a batch holds; `what` they are called."""
    numbers = ", ".join(map(str, indices))
    return f"Its batch holds the training {what} {numbers} (numbered from 0)."


def check_classes(name: str, classes: int, num_classes: int) -> None:
    """Raises a UserError if the data set `name` has another number of classes than the network."""
    if classes != num_classes:
        raise UserError(
            f"config.model.num_classes is {num_classes}, and {name} has {classes} classes: set "
            f"--config.model.num_classes={classes}."
        )


class HostShard:
    """The examples of one host, in order, from a step on: its rows of each batch."""

    def __init__(
        self, examples: grain.MapDataset, batch_size: int, start_step: int, rows: Sequence[int]
    ):
        self._examples, self._batch_size = examples, batch_size
        self._start_step, self._rows = start_step, rows

    def __len__(self) -> int:
        return ENDLESS // self._batch_size

    def __getitem__(self, index: int) -> Any:
        step, row = divmod(index, len(self._rows))
        first = (self._start_step + step) * self._batch_size
        return self._examples[first + self._rows[row]]
