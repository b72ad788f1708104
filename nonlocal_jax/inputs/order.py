"""The order of a run's training examples, and the rows of each batch that a host makes."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain

from nonlocal_jax.errors import UserError

ENDLESS = 1 << 60  # examples; grain adds to it in 64 bits


class Part(NamedTuple):
    """Examples that are next to each other, and how often they are taken.

    Attributes:
      start, stop: of their indices.
      weight: the part's share of all examples that are taken, relative to those of other parts.
    """

    start: int
    stop: int
    weight: float


def parts(sizes: Sequence[int], weights: Sequence[float]) -> list[Part]:
    """The parts of so many examples, one after another."""
    ends = list(itertools.accumulate(sizes))
    return [
        Part(end - size, end, weight)
        for end, size, weight in zip(ends, sizes, weights, strict=True)
    ]


def in_order(examples: Any, seed: int, parts: Sequence[Part] = ()) -> grain.MapDataset:
    """The endless order of a run's examples. Each epoch is shuffled anew.

    Args:
      examples: a sequence of them, or of their indices.
      seed: of the run.
      parts: of the examples, in which each has its own epochs. They alternate, so that of any
        number of examples in a row each part has its share, to about one example. Grain rounds
        weights down to hundredths of the smallest.
    """
    if not parts:
        return grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    orders = [
        grain.MapDataset.source(_Slice(examples, part.start, part.stop))
        .seed((seed + number) % 2**32)
        .shuffle()
        .repeat()
        for number, part in enumerate(parts)
    ]
    return grain.MapDataset.mix(orders, [part.weight for part in parts]).seed(seed)


class _Slice:
    """Some examples next to each other."""

    def __init__(self, examples: Any, start: int, stop: int):
        self._examples, self._range = examples, range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int) -> Any:
        return self._examples[self._range[index]]


def batch_indices(
    count: int, step: int, batch_size: int, seed: int, parts: Sequence[Part] = ()
) -> list[int]:
    """Indices of the examples in the global batch of a step (from 1), of `count` examples."""
    order = in_order(range(count), seed, parts)
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
