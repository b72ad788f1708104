"""Orbax's CheckpointManager as a run needs it: in a thread, with several processes, quiet."""

import contextlib
import logging as standard_logging
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

REMOVED, UNFINISHED = ".removed", ".orbax-checkpoint-tmp"


class Manager(ocp.CheckpointManager):  # type: ignore[misc]
    """Orbax's manager with two methods that differ.

    Orbax asks JAX with the number of the step whether to stop, Preemption with the number of its
    question. JAX stops all processes at the last number, so only Preemption asks.

    After a failed save, Orbax keeps the thread that wrote, and its destructor asks whether it
    lives. If the garbage collector calls that while a thread starts, Python 3.11 hangs.

    Args:
      directory: the folder of the checkpoints, which exists.
      arrays: the parts of a checkpoint that are trees of arrays. They are not compressed: that
        takes half of a save's processor time, and weights become 8% smaller.
      kept: the steps that are not removed.
      seal: is called in the first process before a step that is written gets its name.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        arrays: Sequence[str],
        kept: policies.PreservationPolicy,
        seal: Callable[[], None],
    ):
        # Orbax's barriers are collectives of all devices unless it is told which processes take
        # part. Saving in a thread, those could come before a train step's collectives in one
        # process and after them in another, and all would hang.
        processes = ocp.options.MultiprocessingOptions(
            active_processes=set(range(jax.process_count()))
        )
        asynchronous = ocp.options.AsyncOptions(
            post_finalization_callback=seal, barrier_sync_fn=_barrier
        )
        super().__init__(
            directory,
            item_handlers={
                **{name: ocp.PyTreeCheckpointHandler(use_compression=False) for name in arrays},
                "metadata": ocp.JsonCheckpointHandler(),
            },
            options=policies.CheckpointManagerOptions(
                preservation_policy=kept,
                todelete_subdir=REMOVED,
                create=False,
                save_root_metadata=False,
                lightweight_initialize=True,
                async_options=asynchronous,
                multiprocessing_options=processes,
            ),
        )

    def reached_preemption(self, step: int) -> bool:
        """Whether to stop, which Orbax does not decide."""
        return False

    def wait_until_finished(self) -> None:
        """Waits for what is being written, also for the rest of a save of which a part has failed.

        Orbax raises the error of the small files while its other thread still writes the arrays.
        """
        try:
            super().wait_until_finished()
        except BaseException:
            with contextlib.suppress(Exception):
                self._checkpointer.wait_until_finished()
            raise


def _barrier(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes, if there are any, unless this one has an error.

    Orbax ends each save with a barrier, also a failed one. The others then wait at another barrier.
    """
    if jax.process_count() > 1 and (error := sys.exception()):
        raise error
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


class QuietFailures:
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
