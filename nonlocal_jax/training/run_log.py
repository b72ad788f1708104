"""The log of a run: metrics.jsonl, and event files if tensorboardX is installed."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import write_whole


class RunLog:
    """Writes scalars of a run by step; only the first process writes.

    Args:
      workdir: the folder of the run.
      start: the step that the run resumes from. Entries of later steps are removed.
      evaluated: whether the scores of `start` are final. If not, they are removed, too.

    Raises:
      UserError: from here and from `write`, if the files can't be written.
    """

    def __init__(self, workdir: pathlib.Path, start: int = 0, *, evaluated: bool = True):
        self._file: TextIO | None = None
        self._tensorboard: Any = None
        if jax.process_index() > 0:
            return
        self._name = workdir / "metrics.jsonl"
        with self._explained():
            self._file = _reopen(self._name, start, evaluated)
        try:
            from tensorboardX import SummaryWriter  # an extra: tensorboard
        except ImportError:
            say(
                "Scalars go to metrics.jsonl. For TensorBoard files as well: "
                "pip install 'nonlocal_jax[tensorboard]'."
            )
        else:
            self._tensorboard = SummaryWriter(str(workdir))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of a step to every file."""
        if self._file is not None:
            with self._explained():
                self._file.write(json.dumps({"step": step, **scalars}) + "\n")
                self._file.flush()
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a failed write was reported already
                self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Cannot write {self._name}: {error.strerror}. Make room, or choose another "
                "--workdir. The checkpoints are complete."
            ) from error


def _reopen(file: pathlib.Path, start: int, evaluated: bool) -> TextIO:
    """A JSON Lines file, opened to append, without entries of steps after `start`."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    parsed = [(line, _parse(line)) for line in lines if line.endswith(b"\n")]
    if any(content is None for _, content in parsed):
        aside = file.with_suffix(".damaged")
        aside.write_bytes(b"".join(lines))
        say(f"{file} has lines that can't be read; they are in {aside.name} alone from now on.")
    write_whole(file, b"".join(line for line, c in parsed if _stays(c, start, evaluated)))
    return file.open("a")


def _parse(line: bytes) -> dict[str, float] | None:
    try:
        content = json.loads(line)
        return {**content, "step": int(content["step"])}
    except (ValueError, TypeError, KeyError):
        return None


def _stays(content: dict[str, float] | None, start: int, evaluated: bool) -> bool:
    if content is None or content["step"] > start:
        return False
    return evaluated or content["step"] < start or "learning_rate" in content
