"""The log of a run: metrics.jsonl, a file for each evaluation, and what writers make of both."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax

from nonlocal_jax.errors import UserError
from nonlocal_jax.reporting import history
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import write_whole
from nonlocal_jax.training.writers.writer import Outcome, Writer

Entry = Mapping[str, float | Mapping[str, float]]


class RunLog:
    """Writes scalars of a run by step; only the first process writes.

    Args:
      workdir: the folder of the run.
      start: the step that the run resumes from. Entries of later steps are removed.
      evaluated: whether the scores of `start` are final. If not, they are removed, too.

    Attributes:
      writers: get the same scalars. The log closes them.

    Raises:
      UserError: from here, `write` and `keep`, if the files can't be written.
    """

    def __init__(self, workdir: pathlib.Path, start: int = 0, *, evaluated: bool = True):
        self.writers: list[Writer] = []
        self._file: TextIO | None = None
        self._workdir, self._name = workdir, workdir / history.LOG
        if jax.process_index() > 0:
            return
        with self._explained(self._name):
            self._file = _reopen(self._name, start, evaluated)
            for step, file in history.records_of(workdir).items():
                if step > start or (step == start and not evaluated):
                    file.unlink(missing_ok=True)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        self.close("finished" if error is None else "stopped" if stopped else "failed")

    def write(self, step: int, entry: Entry) -> None:
        """Appends an entry, with the time in seconds since the epoch; NaN becomes null."""
        if self._file is None:
            return
        line = {"step": step, "time": round(time.time(), 3), **_without_nan(entry)}
        with self._explained(self._name):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        scalars = {name: v for name, v in history.flat(entry) if math.isfinite(v)}
        for writer in list(self.writers):
            try:
                writer.write(step, scalars)
            except Exception as error:  # of a server or a library: the run goes on without it
                say(f"{writer.title} takes no more entries: {error}. metrics.jsonl has them.")
                self.writers.remove(writer)
                self._close_one(writer, "failed")

    def keep(self, step: int, record: Mapping[str, object]) -> None:
        """Keeps what there is to say about the evaluation of a step, in evaluations/STEP.json."""
        if self._file is None:
            return
        file = self._workdir / history.EVALUATIONS / f"{step}.json"
        with self._explained(file):
            write_whole(file, json.dumps({"step": step, **record}) + "\n")

    def close(self, outcome: Outcome = "finished") -> None:
        """Flushes and closes the files, and ends the writers."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a failed write was reported already
                self._file.close()
        for writer in self.writers:
            self._close_one(writer, outcome)

    def _close_one(self, writer: Writer, outcome: Outcome) -> None:
        try:
            writer.close(outcome)
        except Exception as error:  # see write
            say(f"{writer.title} could not be closed: {error}.")

    @contextlib.contextmanager
    def _explained(self, file: pathlib.Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Cannot write {file}: {error.strerror}. Make room, or choose another "
                "--workdir. The checkpoints are complete."
            ) from error


def _without_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry as JSON can hold it."""
    return {
        name: _without_nan(value)
        if isinstance(value, Mapping)
        else (None if math.isnan(value) else value)
        for name, value in entry.items()
    }


def _reopen(file: pathlib.Path, start: int, evaluated: bool) -> TextIO:
    """A JSON Lines file, opened to append, without entries of steps after `start`."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    parsed = [(line, history.parse(line)) for line in lines if line.endswith(b"\n")]
    if any(content is None for _, content in parsed):
        aside = file.with_suffix(".damaged")
        aside.write_bytes(b"".join(lines))
        say(f"{file} has lines that can't be read; they are in {aside.name} alone from now on.")
    write_whole(file, b"".join(line for line, c in parsed if _stays(c, start, evaluated)))
    return file.open("a")


def _stays(content: dict[str, Any] | None, start: int, evaluated: bool) -> bool:
    if content is None or content["step"] > start:
        return False
    return evaluated or content["step"] < start or history.OF_A_STEP in content
