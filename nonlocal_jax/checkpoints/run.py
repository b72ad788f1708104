"""The checkpoints of a training run: the latest ones, and the best by its score, such as mIoU.

Orbax's CheckpointManager writes them in the background and removes old ones. This module adds
digests, resuming from an older step if the newest is damaged, and scores that come later.

A process may be killed at any moment. A step has the name `8.orbax-checkpoint-tmp` until it is
complete, with its digests. A step that is removed is moved to `.removed` first. So neither has the
name of a checkpoint.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging as standard_logging
import math
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from nonlocal_jax.checkpoints import folder as files
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import Path, Variables
from nonlocal_jax.errors import UserError, lost_peer

REMOVED, UNFINISHED = ".removed", ".orbax-checkpoint-tmp"
OLD_LEFTOVERS = (".*.unfinished*", ".*.removed*")  # of version 0.1


def prepare(directory: Path) -> int | None:
    """Prepares a folder of checkpoints for resuming. One process calls this.

    Removes what a killed process left, and sets damaged checkpoints aside as `8.damaged`.

    Returns:
      The step of the newest checkpoint that is whole, or None if there is no checkpoint.

    Raises:
      UserError: none is whole, a newer version wrote one, or the folder can't be written.
    """
    directory = pathlib.Path(directory).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for pattern in (REMOVED, f"*{UNFINISHED}*", *OLD_LEFTOVERS):
            for path in directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        damaged: dict[int, str] = {}
        for step in files.steps(directory):
            folder = directory / str(step)
            files.refuse_newer(folder)
            problem = files.damage(folder) or files.renamed(folder)
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


class RunCheckpoints:
    """The checkpoints of one run, saved asynchronously. All processes make the same calls.

    Args:
      directory: the folder, after `prepare`.
      keep: number of latest checkpoints that are kept.
    """

    def __init__(self, directory: Path, *, keep: int):
        self.directory = pathlib.Path(directory).absolute()
        self._scores = _Scores.read(self.directory)
        self._policy = policies.AnyPreservationPolicy([policies.LatestN(keep), self._scores])
        self._writing = 0  # the last step whose save was begun
        self._manager = _Manager(
            self.directory,
            options=policies.CheckpointManagerOptions(
                preservation_policy=self._policy,
                todelete_subdir=REMOVED,
                save_root_metadata=False,
                lightweight_initialize=True,
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=self._seal, barrier_sync_fn=_barrier
                ),
            ),
        )
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
        self._failed: int | None = None
        self._quiet = _QuietFailures()

    def __enter__(self) -> Self:
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

    @property
    def newest(self) -> int:
        """The newest step that is saved or being saved; 0 if there is none."""
        return max(self._writing, self._manager.latest_step() or 0)

    def save(
        self,
        step: int,
        variables: Variables,
        optimizer: Any,
        metadata: Metadata,
        average: Variables | None = None,
    ) -> None:
        """Starts saving a step. The arrays may be donated once this returns.

        An `average` that is not empty is kept beside them.

        Raises:
          UserError: this one, or the one before, can't be written.
        """
        self.wait()
        beside = {files.AVERAGE: ocp.args.StandardSave(dict(average))} if average else {}
        items = ocp.args.Composite(
            **beside,
            model=ocp.args.StandardSave(dict(variables)),
            optimizer=ocp.args.StandardSave(optimizer),
            metadata=ocp.args.JsonSave(dataclasses.replace(metadata, step=step).to_tree()),
        )
        self._writing = step
        try:
            self._manager.save(step, args=items, force=True)
        except (OSError, ValueError) as error:
            self._remove_failed(step)
            raise files.unwritable(self.directory / str(step), error) from error
        self._saving = step, self._thread.submit(self._finish, step)

    def score(self, step: int, value: float, metric: str = files.MIOU) -> None:
        """Adds the score of a saved step, by the name of its metric.

        Raises:
          UserError: the step or its score can't be written.
        """
        self.wait()
        self._scores.known[step] = value
        self._scores.damaged.discard(step)
        if jax.process_index() == 0:
            try:
                files.write_score(self.directory / str(step), value, metric)
            except OSError as error:
                raise files.unwritable(self.directory / str(step), error) from error
        steps = [_Step(saved) for saved in self._manager.all_steps()]
        kept = self._policy.should_preserve(steps, context=policies.PreservationContext())
        for outdone in [one.step for one, keep in zip(steps, kept, strict=True) if not keep]:
            self._manager.delete(outdone)
        self._empty_removed()

    def restore(self, step: int, variables: Variables, optimizer: Any) -> tuple[Variables, Any]:
        """Variables and optimiser state of a step.

        Args:
          step: what `prepare` returned.
          variables, optimizer: arrays, or jax.ShapeDtypeStructs, with the shardings to restore to.

        Raises:
          UserError: it holds other arrays.
        """
        restored = self._restore(step, model=variables, optimizer=optimizer)
        return restored["model"], restored["optimizer"]

    def restore_average(self, step: int, average: Variables) -> dict[str, Any]:
        """The average of the variables that was saved beside a step; see `restore`."""
        return dict(self._restore(step, **{files.AVERAGE: average})[files.AVERAGE])

    def _restore(self, step: int, **like: Any) -> Any:
        given = {name: ocp.args.StandardRestore(item) for name, item in like.items()}
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**given))
        except (OSError, ValueError, KeyError) as error:
            if lost_peer(error):
                raise
            raise UserError(
                f"The checkpoint {self.directory / str(step)} does not hold what this config needs "
                f"({files.reason(error)}). Choose another --workdir."
            ) from error

    def check(self) -> None:
        """Raises a UserError if saving the last step has failed."""
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
        """Waits until everything is on disk, and ends the threads that write.

        Raises:
          UserError: it can't be written.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            with contextlib.suppress(OSError, ValueError):  # of a save that failed
                self._manager.close()
            if self._failed is None:
                self._quiet.end()
            else:  # arrays may have been written all the same, and others may fail still
                self._remove_failed(self._failed)

    def _seal(self) -> None:
        """Adds the digests to a step that Orbax has written, before it gets its name.

        Orbax calls this in its own thread, in the first process.
        """
        files.write_digests(self.directory / f"{self._writing}{UNFINISHED}")

    def _finish(self, step: int) -> None:
        """Waits for a step in a thread, and removes the steps that are no longer kept."""
        try:
            self._manager.wait_until_finished()
        except BaseException:
            self._remove_failed(step)
            raise
        self._empty_removed()

    def _remove_failed(self, step: int) -> None:
        self._failed = step
        if jax.process_index() == 0:
            files.remove(self.directory / f"{step}{UNFINISHED}")

    def _empty_removed(self) -> None:
        if jax.process_index() == 0:
            files.remove(self.directory / REMOVED)


class _Manager(ocp.CheckpointManager):  # type: ignore[misc]
    """Orbax's manager with two methods that differ.

    Orbax asks JAX with the number of the step whether to stop, Preemption with the number of its
    question. JAX stops all processes at the last number, so only Preemption asks.

    After a failed save, Orbax keeps the thread that wrote, and its destructor asks whether it
    lives. If the garbage collector calls that while a thread starts, Python 3.11 hangs.
    """

    def reached_preemption(self, step: int) -> bool:
        return False

    def close(self) -> None:
        try:
            super().close()
        except BaseException:
            with contextlib.suppress(Exception):
                self._checkpointer.wait_until_finished()
            raise


@dataclasses.dataclass(frozen=True)
class _Step:
    """A checkpoint in the form that Orbax's policies take."""

    step: int
    time: Any = None
    metrics: Any = None


@dataclasses.dataclass
class _Scores(policies.PreservationPolicy):  # type: ignore[misc]
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

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: policies.PreservationContext
    ) -> Sequence[bool]:
        best = policies.BestN(
            get_metric_fn=lambda score: score, n=1, keep_checkpoints_without_metrics=False
        )
        scored = [_Step(one.step, metrics=self._metric(one.step)) for one in checkpoints]
        kept: Iterable[bool] = best.should_preserve(scored, context=context)
        return [
            keep or one.step in self.damaged for keep, one in zip(kept, checkpoints, strict=True)
        ]

    def _metric(self, step: int) -> float | None:
        score = self.known.get(step)
        return score if score is not None and math.isfinite(score) else None


def _set_aside(directory: pathlib.Path, damaged: Mapping[int, str]) -> None:
    for step, problem in damaged.items():
        aside = directory / f"{step}.damaged"
        logging.error("The checkpoint %s/%d: %s. Now %s.", directory, step, problem, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)


def _barrier(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes, if there are any, unless this one has an error.

    Orbax ends each save with a barrier, also a failed one. The others then wait at another barrier.
    """
    if jax.process_count() > 1 and (error := sys.exception()):
        raise error
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


class _QuietFailures:
    """Leaves out what libraries print of a save that fails, and that is told in a line here.

    Orbax logs the stack of the error that it raises. It also closes the event loop of the save,
    while TensorStore's threads still write: each array that fails later is a stack of its own,
    also after the checkpoints are closed. So this ends with a run whose saves have not failed.
    """

    def __init__(self) -> None:
        self._before = sys.unraisablehook
        sys.unraisablehook = self._hook
        standard_logging.getLogger("absl").addFilter(_is_no_stack_of_orbax)
        standard_logging.getLogger("asyncio").addFilter(_is_no_lost_write)

    def end(self) -> None:
        """Lets everything be printed again."""
        standard_logging.getLogger("absl").removeFilter(_is_no_stack_of_orbax)
        standard_logging.getLogger("asyncio").removeFilter(_is_no_lost_write)
        if sys.unraisablehook == self._hook:  # else somebody else has replaced it
            sys.unraisablehook = self._before

    def _hook(self, unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._before(unraisable)


def _is_no_stack_of_orbax(record: standard_logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _is_no_lost_write(record: standard_logging.LogRecord) -> bool:
    """Whether this is not about an array that failed after another one: nobody asks for it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, OSError | ValueError)
