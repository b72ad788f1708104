"""The checkpoints of a training run: the latest ones, and the best by its score, such as mIoU.

Training goes on while a checkpoint is written. This module copies the arrays, and gives the copies
to Orbax's CheckpointManager in a thread. It adds digests, resuming from an older step if the newest
is damaged, and scores that come later.

A process may be killed at any moment. The folder of step 8, say, has the name
`8.orbax-checkpoint-tmp` until it is complete, with its digests. A step that is removed is moved to
`.removed` first. So neither has the name of a checkpoint.
"""

import concurrent.futures
import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from nonlocal_jax.checkpoints import folder as files
from nonlocal_jax.checkpoints.copies import copied
from nonlocal_jax.checkpoints.manager import REMOVED, UNFINISHED, Manager, QuietFailures
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import Path, Variables
from nonlocal_jax.checkpoints.scores import Scores, Step
from nonlocal_jax.errors import UserError, lost_peer

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
        self._scores = Scores.read(self.directory)
        self._policy = policies.AnyPreservationPolicy([policies.LatestN(keep), self._scores])
        self._manager = Manager(
            self.directory,
            arrays=(files.MODEL, files.AVERAGE, "optimizer"),
            kept=self._policy,
            seal=self._seal,
        )
        self._newest: int = self._manager.latest_step() or 0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "saving")
        self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
        self._failed: int | None = None
        self._quiet = QuietFailures()

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
        return self._newest

    def rehearse(self, variables: Variables, optimizer: Any, average: Variables) -> None:
        """Makes the copies of a save, and drops them.

        The first ones take longer: their program is compiled, or their memory is reserved.
        """
        jax.block_until_ready(copied((variables, optimizer, average)))

    def save(
        self,
        step: int,
        variables: Variables,
        optimizer: Any,
        metadata: Metadata,
        average: Variables | None = None,
    ) -> None:
        """Starts saving a step. The arrays may be donated once this returns.

        An `average` that is not empty is kept beside them. Only a save that is still under way is
        waited for. What fails is told by the next `check`, `wait`, `save`, `score` or `close`.

        Raises:
          UserError: the save before can't be written.
        """
        self.wait()
        arrays = copied((dict(variables), optimizer, dict(average or {})))
        tree = dataclasses.replace(metadata, step=step).to_tree()
        self._newest = step
        self._saving = step, self._thread.submit(self._write, step, *arrays, tree)

    def score(self, step: int, value: float, metric: str = files.MIOU) -> None:
        """Adds the score of a saved step, by the name of its metric.

        Raises:
          UserError: the step or its score can't be written.
        """
        self.wait()
        self._scores.add(step, value)
        if jax.process_index() == 0:
            try:
                files.write_score(self.directory / str(step), value, metric)
            except OSError as error:
                raise files.unwritable(self.directory / str(step), error) from error
        steps = [Step(saved) for saved in self._manager.all_steps()]
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
        self.wait()
        given = {
            name: ocp.args.PyTreeRestore(item, ocp.checkpoint_utils.construct_restore_args(item))
            for name, item in like.items()
        }
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

    def _write(
        self, step: int, variables: Variables, optimizer: Any, average: Variables, metadata: Any
    ) -> None:
        """Writes a step in the thread, and removes the steps that are no longer kept."""
        beside = {files.AVERAGE: ocp.args.PyTreeSave(average)} if average else {}
        items = ocp.args.Composite(
            **beside,
            model=ocp.args.PyTreeSave(variables),
            optimizer=ocp.args.PyTreeSave(optimizer),
            metadata=ocp.args.JsonSave(metadata),
        )
        try:
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
        except BaseException:
            self._remove_failed(step)
            raise
        self._empty_removed()

    def _seal(self) -> None:
        """Adds the digests to a step that Orbax has written, before it gets its name.

        Orbax calls this in its own thread, in the first process.
        """
        files.write_digests(self.directory / f"{self._newest}{UNFINISHED}")

    def _remove_failed(self, step: int) -> None:
        self._failed = step
        if jax.process_index() == 0:
            files.remove(self.directory / f"{step}{UNFINISHED}")

    def _empty_removed(self) -> None:
        if jax.process_index() == 0:
            files.remove(self.directory / REMOVED)


def _set_aside(directory: pathlib.Path, damaged: Mapping[int, str]) -> None:
    for step, problem in damaged.items():
        aside = directory / f"{step}.damaged"
        logging.error("The checkpoint %s/%d: %s. Now %s.", directory, step, problem, aside.name)
        shutil.rmtree(aside, ignore_errors=True)
        (directory / str(step)).rename(aside)
