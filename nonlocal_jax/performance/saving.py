"""How long a save holds a training loop, and what it costs the steps around it."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.run import RunCheckpoints, prepare
from nonlocal_jax.config.schema import Run
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.console import working
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.step import TrainState
from nonlocal_jax.training.tasks import task as tasks


@dataclasses.dataclass(frozen=True)
class Saving:
    """Times in milliseconds, all but `alone` medians of several turns.

    Attributes:
      config: name of the row.
      megabytes: of the arrays that are saved.
      steps: train steps in a turn.
      plain: their time without a save.
      with_save: their time with a save after the first one, which goes on behind the others.
      held: the time after which `save` returns.
      alone: the time after which a checkpoint is whole while nothing else runs.
    """

    config: str
    megabytes: float
    steps: int
    plain: float
    with_save: float
    held: float
    alone: float

    def line(self) -> str:
        """All of it in one line."""
        return (
            f"{self.config}, {self.megabytes:.0f} MB: save() holds the loop for "
            f"{self.held:.1f} ms; {self.steps} steps take {self.plain:.1f} ms, "
            f"{self.with_save:.1f} ms with a save among them "
            f"({self.with_save / self.plain - 1:+.1%}); "
            f"alone, a checkpoint takes {self.alone:.0f} ms, so save no more often than that"
        )


def saving(name: str, config: Run, steps: int, turns: int) -> Saving:
    """Measures steps with and without a save, in turn, and removes what was saved.

    The checkpoints are in a folder of $TMPDIR. Images, labels and weights are random. A save that
    outlasts the steps is waited for after each turn, which no figure counts.

    Args:
      name: of the config.
      config: the config.
      steps: train steps in a turn.
      turns: turns of each kind after the first.

    Raises:
      UserError: the checkpoint can't be written.
    """
    mesh = sharding.make_mesh(config.mesh)
    task, program = tasks.of(config), TrainProgram.of(config, mesh)
    state = program.first_state(task.initial_variables())
    batch = sharding.put_batch(task.random_batch(np.random.default_rng(0)), mesh)
    with working(f"{name}: compiling training"):
        step = program.compile()
    times: dict[str, list[float]] = {"plain": [], "with_save": [], "held": []}
    with (
        working(f"{name}: {turns + 1} turns of {steps} steps, with a save and without"),
        tempfile.TemporaryDirectory() as folder,
    ):
        prepare(folder)
        with RunCheckpoints(folder, keep=1) as saved:
            saved.rehearse(state.variables, state.optimizer, state.average)
            begun = time.perf_counter()
            _save(saved, 1, config, state)
            saved.wait()
            alone = time.perf_counter() - begun
            for turn in range(2, 2 * turns + 4):
                start = time.perf_counter()
                state = _run(step, state, batch, 1)  # and a pause, as for the log
                if turn % 2:
                    begun = time.perf_counter()
                    _save(saved, turn, config, state)
                    times["held"].append(time.perf_counter() - begun)
                state = _run(step, state, batch, steps - 1)
                times["with_save" if turn % 2 else "plain"].append(time.perf_counter() - start)
                saved.wait()
    medians = {what: statistics.median(found[1:]) * 1e3 for what, found in times.items()}
    arrays = jax.tree.leaves((state.variables, state.optimizer, state.average))
    megabytes = sum(array.nbytes for array in arrays) / 1e6
    return Saving(config=name, megabytes=megabytes, steps=steps, alone=alone * 1e3, **medians)


def _save(saved: RunCheckpoints, step: int, config: Run, state: TrainState) -> None:
    metadata = Metadata(kind="training", config=config)
    saved.save(step, state.variables, state.optimizer, metadata, state.average)


def _run(step: Callable[..., Any], state: TrainState, batch: Any, count: int) -> TrainState:
    """Runs steps as training does: one may run on the device while the host gives it the next."""
    before = None
    for _ in range(count):
        state, metrics = step(state, batch)
        if before is not None:
            jax.device_get(before)
        before = metrics
    done: TrainState = jax.block_until_ready(state)
    return done
