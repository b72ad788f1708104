"""Checkpoints on disk: of a whole training run, and of a network alone. Both are Orbax's.

A checkpoint is a folder with `model/` (variables by name), `metadata/` (JSON) and, in training,
`optimizer/` and, once it is known, `score.json`; see checkpoint_files.py.

What is written has another name (`.8.unfinished`) until all of it and its digests are there, and
what is removed loses its name first (`.4.removed`): a process that is killed, at any moment, leaves
nothing that looks like a checkpoint and is none.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import logging as standard_logging
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, TypeVarTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from nonlocal_jax.checkpoints import folder as files
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.errors import UserError, lost_peer

UNFINISHED, REMOVED = "unfinished", "removed"
Args = TypeVarTuple("Args")

Variables = Mapping[str, Any]
Path = str | os.PathLike[str]


def save_model(directory: Path, variables: Variables, metadata: Mapping[str, Any]) -> None:
    """Writes a network's variables as a checkpoint; either all of it appears, or nothing.

    Args:
      directory: a folder that does not exist yet.
      variables: arrays by name.
      metadata: what JSON can hold; `kind` says "segmentor" or "backbone".

    Raises:
      UserError: the folder exists, or can't be written.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists():
        raise UserError(f"{directory} exists already; remove it, or choose another folder.")
    unfinished = directory.with_name(f".{directory.name}.{UNFINISHED}")
    try:
        files.remove(unfinished)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(unfinished, args=_composite(variables, metadata))
        files.write_digests(unfinished)
        unfinished.rename(directory)
    except (OSError, ValueError) as error:
        raise files.unwritable(directory, error) from error
    finally:
        files.remove(unfinished)


def load_model(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Variables (NumPy arrays by name) and metadata of a checkpoint.

    Args:
      path: an imported checkpoint, a training workdir (its latest checkpoint that is whole), the
        workdir's `checkpoints` folder, or one step in it.

    Raises:
      UserError: there is no checkpoint, it is damaged, or a newer version wrote it.
    """
    step = find(path)
    metadata = read_metadata(step)
    problem = files.damage(step)
    if problem:
        raise UserError(f"The checkpoint {step} is damaged: {problem}. Restore it from a copy.")
    with ocp.StandardCheckpointer() as checkpointer:
        structure = checkpointer.metadata(step / "model").item_metadata
        host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), dict(structure))
        variables = checkpointer.restore(step / "model", host)
    return {name: np.asarray(value) for name, value in variables.items()}, metadata


def find(path: Path) -> pathlib.Path:
    """The folder of one checkpoint (it holds `model/`) that `path` names; see `load_model`."""
    path = pathlib.Path(path).absolute()
    if (path / "model").is_dir():
        return path
    for folder in (path / "checkpoints", path):
        for step in files.steps(folder):
            if not files.damage(folder / str(step)):
                return folder / str(step)
    if not path.exists():
        raise UserError(f"There is no checkpoint {path}.")
    raise UserError(
        f"{path} holds no checkpoint: neither a model/ of its own nor a checkpoints/STEP/ that is "
        "whole. Name what `python -m nonlocal_jax.convert` or a training run wrote."
    )


def prepare(directory: Path) -> int | None:
    """Makes a folder of checkpoints ready to go on from; to be called by one process alone.

    Removes what a killed process left, and sets damaged checkpoints aside as `8.damaged`.

    Returns:
      The step of the newest checkpoint that is whole, or None if there is no checkpoint.

    Raises:
      UserError: none is whole, a newer version wrote one, or the folder can't be written.
    """
    directory = pathlib.Path(directory).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for state in (UNFINISHED, REMOVED):
            for path in directory.glob(f".*.{state}*"):
                shutil.rmtree(path, ignore_errors=True)
        damaged: dict[int, str] = {}
        for step in files.steps(directory):
            folder = directory / str(step)
            files.refuse_newer(folder)
            problem = files.damage(folder)
            if problem is None:
                _set_aside(directory, damaged)
                return step
            damaged[step] = problem
    except OSError as error:
        raise UserError(f"Cannot use {directory} for checkpoints: {error}.") from error
    if damaged:
        listed = "\n".join(f"  {step}: {problem}" for step, problem in damaged.items())
        raise UserError(
            f"No checkpoint in {directory} is whole:\n{listed}\n"
            "Restore one from a copy, or remove them to begin anew."
        )
    return None


def is_scored(step: pathlib.Path) -> bool:
    """Whether the mIoU of one checkpoint's folder is known."""
    return files.score(step) is not None


class TrainingCheckpoints:
    """The checkpoints of one run: the latest ones, and the best by mIoU, saved asynchronously.

    Args:
      directory: after `prepare`.
      keep: how many of the latest.
    """

    def __init__(self, directory: Path, *, keep: int):
        self.directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
        # Orbax logs the stacks of errors that it raises, and that we tell of.
        standard_logging.getLogger("absl").addFilter(_is_no_stack_of_orbax)
        asyncio.set_event_loop_policy(_EventLoopPolicy())

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if lost_peer(error):  # which Orbax would wait for
            self._thread.shutdown(wait=False)
            return
        try:
            self.close()
        except UserError as unsaved:
            if error is None:
                raise
            logging.error("%s", unsaved)

    def save(
        self,
        step: int,
        variables: Variables,
        optimizer: Any,
        metadata: Mapping[str, Any],
        *,
        miou: float | None = None,
    ) -> None:
        """Starts saving a step; the arrays may be donated as soon as this returns.

        Raises:
          UserError: this one, or the one before, can't be written.
        """
        self.wait()
        unfinished = self.directory / f".{step}.{UNFINISHED}"
        arguments = _composite(variables, metadata, optimizer)
        try:
            self._checkpointer.save(unfinished, args=arguments)
        except (OSError, ValueError) as error:
            if jax.process_index() == 0:
                files.remove(unfinished)
            raise files.unwritable(self.directory / str(step), error) from error
        self._saving = step, self._thread.submit(self._finish, step, unfinished, miou)

    def score(self, step: int, miou: float) -> None:
        """Tells the mIoU of a step that was saved without.

        Raises:
          UserError: it can't be written.
        """
        self.wait()
        if jax.process_index() > 0:
            return
        try:
            files.write_score(self.directory / str(step), miou)
        except OSError as error:
            raise files.unwritable(self.directory / str(step), error) from error
        self._prune()

    def restore(self, step: int, variables: Variables, optimizer: Any) -> tuple[Variables, Any]:
        """Variables and optimiser state of a step.

        Args:
          step: as `prepare` gave it.
          variables, optimizer: arrays, or jax.ShapeDtypeStructs with shardings, to restore like.

        Raises:
          UserError: it holds other arrays.
        """
        try:
            restored = self._checkpointer.restore(
                self.directory / str(step),
                args=ocp.args.Composite(
                    model=ocp.args.StandardRestore(variables),
                    optimizer=ocp.args.StandardRestore(optimizer),
                ),
            )
        except (OSError, ValueError, KeyError) as error:
            if lost_peer(error):
                raise
            raise UserError(
                f"The checkpoint {self.directory / str(step)} does not hold what this config needs "
                f"({files.reason(error)}). Choose another --workdir."
            ) from error
        return restored["model"], restored["optimizer"]

    def check(self) -> None:
        """Raises a UserError if the step that is being saved is found not to have been."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: it can't be written.
        """
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        try:
            future.result()
        except (OSError, ValueError) as error:
            if lost_peer(error.__cause__):  # it is not the disk
                raise error.__cause__ from error  # type: ignore[misc]
            raise files.unwritable(self.directory / str(step), error) from error

    def close(self) -> None:
        """Waits until everything is on disk, and ends the thread that writes.

        Raises:
          UserError: it can't be written.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            with contextlib.suppress(OSError, ValueError):  # of a save that is told to have failed
                self._checkpointer.close()

    def _finish(self, step: int, unfinished: pathlib.Path, miou: float | None) -> None:
        """Gives a step its name once Orbax has written it and its digests are there."""
        try:
            self._checkpointer.wait_until_finished()
            if jax.process_index() > 0:
                return
            if miou is not None:
                files.write_score(unfinished, miou)
            files.write_digests(unfinished)
            unfinished.rename(self.directory / str(step))
        except BaseException:
            if jax.process_index() == 0:
                files.remove(unfinished)
            raise
        self._prune()

    def _prune(self) -> None:
        """Removes what is neither among the latest nor the best."""
        steps = files.steps(self.directory)
        scores = {step: files.score(self.directory / str(step)) for step in steps}
        scored = [(miou, step) for step, miou in scores.items() if miou is not None]
        best = max(scored)[1] if scored else None
        for step in steps[self._keep :]:
            if step != best:
                removed = self.directory / f".{step}.{REMOVED}"
                (self.directory / str(step)).rename(removed)
                files.remove(removed)


def _set_aside(directory: pathlib.Path, damaged: Mapping[int, str]) -> None:
    for step, problem in damaged.items():
        aside = directory / f"{step}.damaged"
        logging.error("The checkpoint %s/%d: %s. Now %s.", directory, step, problem, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)


class _EventLoop(asyncio.SelectorEventLoop):
    """Tells the first error of a save, which Orbax raises, and is silent about all that follow.

    Orbax ends the loop at the first. TensorStore's threads, which still write other arrays, then
    tell a loop that is closed of theirs, each with a stack.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
            return asyncio.Handle(callback, args, self, context)  # which nobody runs

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        logging.debug("While saving: %s", context)


class _EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _EventLoop


def _is_no_stack_of_orbax(record: standard_logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _composite(
    variables: Variables, metadata: Mapping[str, Any], optimizer: Any = None
) -> ocp.args.Composite:
    # What JSON can't hold is better found before anything is written than in a thread of Orbax.
    metadata = json.loads(json.dumps({"format": files.FORMAT, **metadata}))
    items = {
        "model": ocp.args.StandardSave(dict(variables)),
        "metadata": ocp.args.JsonSave(metadata),
    }
    if optimizer is not None:
        items["optimizer"] = ocp.args.StandardSave(optimizer)
    return ocp.args.Composite(**items)
