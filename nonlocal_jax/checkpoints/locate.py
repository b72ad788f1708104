"""Which checkpoint a path means: a run's folder, one of its steps, an import, or a hub folder."""

import os
import pathlib
from os import PathLike
from typing import Literal, NamedTuple

from nonlocal_jax.checkpoints import folder as files
from nonlocal_jax.checkpoints.hub import download
from nonlocal_jax.checkpoints.hub import files as hub
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.console import say

Step = int | Literal["best", "latest"]
CHECKPOINTS = "checkpoints"
ATTEMPTS = 5  # a running training saves and removes steps meanwhile


class Found(NamedTuple):
    """One checkpoint.

    Attributes:
      folder: of the checkpoint; it holds `model/`, or is a hub folder.
      step: of the run; None for a checkpoint without a run.
      run: the run's folder; None for a checkpoint without a run.
      repository: the name of what was downloaded; empty for a folder.
    """

    folder: pathlib.Path
    step: int | None
    run: pathlib.Path | None
    repository: str = ""

    def __str__(self) -> str:
        if self.repository:
            return f"{self.repository} of the Hugging Face hub"
        return str(self.folder) if self.run is None else f"step {self.step} of {self.run}"

    def renamed(self) -> str | None:
        """A message if the folder has the name of another step, or None."""
        return None if self.run is None else files.renamed(self.folder)


def parse_step(text: str) -> Step | None:
    """The value of `--step`: "best", "latest", a number, or "" for the default.

    Raises:
      UserError: it is none of these.
    """
    if text == "best":
        return "best"
    if text == "latest":
        return "latest"
    if text and not (text.isascii() and text.isdecimal()):
        raise UserError(f"--step is {text!r}; it must be best, latest or the number of a step.")
    return int(text) if text else None


def find(path: str | PathLike[str], step: Step | None = None) -> Found:
    """The checkpoint that `path` means.

    Args:
      path: an imported checkpoint, a hub folder, a run's folder, its `checkpoints` folder, or one
        step in it; or "org/name" or "org/name@revision" of the Hugging Face hub, which is
        downloaded if there is no such path here.
      step: of a run: a number, "latest", "best" by mIoU; by default the best, else the latest. A
        damaged checkpoint is passed over, unless it is asked for by its number.

    Raises:
      UserError: there is none, it can't be downloaded, or a newer version wrote it.
    """
    if not isinstance(path, str | PathLike) or not os.fspath(path):
        raise UserError(f"The checkpoint is {path!r}; it must be the path of a folder.")
    if not (step in (None, "best", "latest") or type(step) is int):
        raise UserError(f"The step is {step!r}; it must be best, latest or the number of a step.")
    if download.is_repository(name := os.fspath(path)):
        return _one(download.fetch(name), step)._replace(repository=name)
    path = pathlib.Path(path).absolute()
    if (path / "model").is_dir() or hub.is_hub_folder(path):
        return _one(path, step)
    for directory in (path / CHECKPOINTS, path):
        for _ in range(ATTEMPTS):
            found = _in_run(directory, step)
            if found is None or found.folder.is_dir():
                break
        if found is not None:
            return found
    if not path.exists():
        raise UserError(f"There is no checkpoint {path}: train one, or `convert` one first.")
    inside = sorted(below.parent for below in path.glob(f"*/{CHECKPOINTS}"))
    hint = (
        f"Did you mean {inside[0]}?" if inside else "Name what `convert` or a training run wrote."
    )
    raise UserError(
        f"{path} holds no checkpoint: neither a model/ or {hub.WEIGHTS} of its own nor a "
        f"checkpoints/STEP/ that is whole. {hint}"
    )


def _one(path: pathlib.Path, step: Step | None) -> Found:
    if path.name.isdecimal() and path.parent.name == CHECKPOINTS:
        found = Found(path, int(path.name), path.parent.parent)
    else:
        found = Found(path, None, None)
    if step is not None and step != found.step:
        raise UserError(f"{path} is one checkpoint; a step is chosen in the folder of a run.")
    return found


def _in_run(directory: pathlib.Path, step: Step | None) -> Found | None:
    """The chosen checkpoint in a folder of steps; None if all are damaged."""
    steps = files.steps(directory)
    if not steps:
        return None
    run = directory.parent if directory.name == CHECKPOINTS else directory
    if isinstance(step, int):
        if step not in steps:
            listed = ", ".join(map(str, reversed(steps)))
            raise UserError(f"{run} has no checkpoint of step {step}. It has: {listed}.")
        return Found(directory / str(step), step, run)
    for candidate in _in_order(directory, steps, step):
        folder = directory / str(candidate)
        files.refuse_newer(folder)
        problem = files.damage(folder) or files.renamed(folder)
        if problem is None:
            return Found(folder, candidate, run)
        if folder.is_dir():  # otherwise the run has just removed it
            say(f"Passed over {folder}: {problem}.")
    return None


def _in_order(
    directory: pathlib.Path, steps: list[int], step: Literal["best", "latest"] | None
) -> list[int]:
    """The steps in the order of preference."""
    if step == "latest":
        return steps
    try:
        scores = {number: files.score(directory / str(number)) for number in steps}
    except files.DamagedScoreError as error:
        raise UserError(f"{error} Or name a step, or the latest one.") from error
    scored = [number for number in steps if scores[number] is not None]
    if step == "best" and not scored:
        raise UserError(f"No checkpoint in {directory} has been evaluated: take the latest one.")
    best = sorted(scored, key=lambda number: (scores[number], number), reverse=True)
    return best if step == "best" else best + [n for n in steps if n not in scored]
