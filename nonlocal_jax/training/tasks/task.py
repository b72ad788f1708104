"""The interface of tasks: all that training needs to know about what is learned.

A module of the table config.tables.TASKS has `build(config) -> Task`.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nonlocal_jax.config import tables
from nonlocal_jax.config.schema import Run
from nonlocal_jax.models.functional import Functional

Arrays = dict[str, jax.Array]
Objective = Callable[[Any, Arrays, nnx.Rngs], Arrays]
"""From a network in training mode, a batch and generators to metrics: scalars, among them `loss`,
which training minimises, and `accuracy`. Dropout reads the generators."""


@runtime_checkable
class Described(Protocol):
    """A data set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each label."""
        ...


@runtime_checkable
class Inputs(Protocol):
    """The data of a run."""

    @property
    def dataset(self) -> Described:
        """The description of the data set."""
        ...

    def open(self, split: str) -> Any:
        """The examples of a split, "train" or "val", by index."""
        ...

    def check(self) -> None:
        """Raises a UserError if there is nothing to train on, or to evaluate on."""
        ...

    def train_batches(
        self, *, start_step: int = 0, rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """This host's part of the training batches from a step on, without end."""
        ...

    def describe_batch(self, step: int) -> str:
        """A sentence that says which examples the batch of a step holds."""
        ...


@runtime_checkable
class Scores(Protocol):
    """The result of an evaluation."""

    @property
    def best_by(self) -> float:
        """What the best checkpoint of a run has the largest value of."""
        ...

    @property
    def best_metric(self) -> str:
        """The name of that value in the log, as "miou"."""
        ...

    @property
    def headline(self) -> str:
        """That value in words, as "mIoU 78.24"."""
        ...

    def to_dict(self) -> dict[str, float | int]:
        """All scores, for the log."""
        ...

    def by_class(self) -> dict[str, dict[str, float]]:
        """Scores by the name of a class, for the log: {"iou": {"road": 0.9}}."""
        ...

    def record(self) -> dict[str, object]:
        """What a run keeps of an evaluation, as JSON can hold it."""
        ...

    def table(self) -> str:
        """All scores as lines of text."""
        ...


@runtime_checkable
class Evaluation(Protocol):
    """The evaluation of a network on the validation split."""

    def run(
        self, variables: Arrays, *, between_batches: Callable[[], None] = lambda: None
    ) -> Scores:
        """Scores of the network with some variables.

        An exception of `between_batches`, which is called after each batch, ends the evaluation.
        """
        ...


class Task(abc.ABC):
    """What a run learns.

    Attributes:
      unit: what examples are called: "images".
    """

    unit: str

    @property
    @abc.abstractmethod
    def inputs(self) -> Inputs:
        """The data of the run."""

    @abc.abstractmethod
    def network(self, mesh: Mesh) -> Functional[Any]:
        """The network, with the dtype and the kernels for the devices of a mesh."""

    @abc.abstractmethod
    def initial_variables(self) -> Arrays:
        """Freshly initialised variables of the network, by name."""

    @abc.abstractmethod
    def objective(self) -> Objective:
        """What training minimises."""

    @abc.abstractmethod
    def evaluation(self, network: Functional[Any], mesh: Mesh) -> Evaluation:
        """The evaluation of the network that is trained."""

    @abc.abstractmethod
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global training batch."""

    @abc.abstractmethod
    def random_batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A global training batch of random examples, for measurements."""

    @abc.abstractmethod
    def meta(self) -> Mapping[str, Any]:
        """What a checkpoint says about the classes."""


def of(config: Run) -> Task:
    """The task of a config."""
    return cast(Task, tables.find("tasks", config.task, "task").build(config))
