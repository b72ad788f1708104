"""The interface of writers, and what they are told of their run."""

import abc
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nonlocal_jax.config import tables
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import write_whole

IDS = "logged_to.json"  # in a run's folder: the run's name elsewhere, by writer
Outcome = Literal["finished", "stopped", "failed"]
Scalars = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Place:
    """A run, for its writers.

    Attributes:
      workdir: its folder.
      settings: its config by dotted key.
      start: the step that it resumes from; 0 for a new run.
    """

    workdir: pathlib.Path
    settings: Mapping[str, Any]
    start: int

    def known_id(self, writer: str) -> str | None:
        """The run's id at a writer, if it resumes one that was written there."""
        if not self.start:
            return None
        found = self._ids().get(writer)
        return found if isinstance(found, str) else None

    def remember(self, writer: str, run: str) -> None:
        """Keeps the run's id at a writer, for `known_id` when the run resumes.

        Raises:
          UserError: it can't be written.
        """
        file = self.workdir / IDS
        try:
            write_whole(file, json.dumps({**self._ids(), writer: run}, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"Cannot write {file}: {error.strerror or error}.") from error

    def _ids(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.workdir / IDS).read_text()))
        except (OSError, ValueError, TypeError):
            return {}


class Writer(abc.ABC):
    """Gets the entries of one run's log.

    Attributes:
      title: what it is called in messages.
    """

    title: str

    @abc.abstractmethod
    def write(self, step: int, scalars: Scalars) -> None:
        """Adds the finite scalars of a step. Those of a class are named "iou/road".

        What it raises ends the writer, not the run.
        """

    @abc.abstractmethod
    def close(self, outcome: Outcome) -> None:
        """Ends the run there: finished, stopped (it will be resumed) or failed."""


def check(names: Sequence[str]) -> None:
    """Finds out whether writers of the table `writers` can be made.

    Raises:
      UserError: there is none of a name, or what it needs is not installed.
    """
    for name in names:
        tables.find("writers", name, "log_to").check()


def build(names: Sequence[str], place: Place) -> list[Writer]:
    """The writers of a run, by their names in the table `writers`.

    If one can't begin, those before it are ended.

    Raises:
      UserError: one can't begin.
    """
    made: list[Writer] = []
    try:
        for name in names:
            made.append(tables.find("writers", name, "log_to").build(place))
    except BaseException:  # whatever a library raises
        for writer in made:
            with contextlib.suppress(Exception):  # the first error is told
                writer.close("failed")
        raise
    return made
