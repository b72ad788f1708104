"""A run under way: what the training loop does beside its steps."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.run import RunCheckpoints
from nonlocal_jax.config.schema import Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import console
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.preemption import Preempted, Preemption
from nonlocal_jax.runtime.silence import Silence
from nonlocal_jax.training.goodput import Goodput
from nonlocal_jax.training.run_log import RunLog
from nonlocal_jax.training.step import TrainState
from nonlocal_jax.training.step_metrics import StepMetrics
from nonlocal_jax.training.tasks.task import Evaluation, Scores, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """A run under way.

    Attributes:
      config: of the run.
      task: what it learns.
      evaluation: of its network.
      learning_rate: by the number of steps that are done.
      preemption: says when to stop.
      saved: its checkpoints.
      log: its log.
      recent: metrics of the steps that are not in the log yet.
      goodput: what its time is spent on.
      rate: the speed of its steps.
      silence: tells of other processes that do not answer.
    """

    config: Run
    task: Task
    evaluation: Evaluation
    learning_rate: Callable[[int], Any]
    preemption: Preemption
    saved: RunCheckpoints
    log: RunLog
    recent: StepMetrics
    goodput: Goodput
    rate: console.Rate
    silence: Silence

    def begin(self, step: int) -> None:
        """The steps after `step` begin now."""
        self.rate.restart(step)
        self.goodput.begin(step)
        say(f"Training from step {step} to {self.config.total_steps}.")
        self.preemption.begin()

    def is_due(self, step: int) -> bool:
        """Whether a step is followed by an evaluation."""
        return step % self.config.eval_every == 0 or step == self.config.total_steps

    @contextlib.contextmanager
    def aside(self, what: str) -> Iterator[None]:
        """The time inside is that of a bucket of goodput, and none of the steps' rate."""
        with self.rate.pause(), self.silence.pause(), self.goodput.inside(what):
            yield

    @contextlib.contextmanager
    def kept(self, step: int, state: TrainState) -> Iterator[None]:
        """Saves a finished step if what is inside fails: the input, or the log.

        With several processes nothing is saved: saving needs all of them, and the others are in the
        next step.
        """
        try:
            yield
        except UserError:
            if jax.process_count() == 1 and step > self.saved.newest:
                with contextlib.suppress(UserError):  # on a full disk, say; the first error is told
                    self.save(step, state)
                    self.saved.wait()
                    say(f"Saved step {step}, after which the run fails.")
            raise

    def write(self, step: int, state: TrainState) -> None:
        """Writes and says the metrics since the last entry of the log, and the speed.

        Raises:
          UserError: the log can't be written (then `state` is saved), or too many steps were not
            finite.
        """
        scalars = self.recent.means()  # not inside `kept`: a step that is not finite isn't saved
        scalars["learning_rate"] = float(self.learning_rate(step - 1))
        with self.kept(step, state):
            scalars[f"{self.task.unit}_per_second"], eta = self.rate.read(step)
            scalars["goodput"] = self.goodput.note(step)
            self._say_progress(step, scalars, eta)
            self.log.write(step, scalars)

    def save(self, step: int, state: TrainState) -> None:
        """Starts saving a finished step. The next one may begin while it is written.

        Raises:
          UserError: the save before can't be written.
        """
        metadata = Metadata(
            kind="training", config=self.config, meta=self.task.meta(), recent=self.recent.state()
        )
        with self.goodput.inside("saving"):
            self.saved.save(step, state.variables, state.optimizer, metadata, state.average)
        self.goodput.note(step)

    def evaluate(self, step: int, state: TrainState) -> Scores | None:
        """Evaluates a saved step, and stores and logs its scores.

        Returns None if the process is told to stop meanwhile. The resumed run evaluates again.

        Raises:
          UserError: the log, the step or its scores can't be written.
        """
        with self.aside("evaluating"):
            try:
                scores = self.evaluation.run(
                    state.evaluated, between_batches=self.preemption.give_up_if_told
                )
            except Preempted:
                return None
            # The score comes last: without it, a run that is killed here evaluates again.
            self.log.keep(step, scores.record())
            self.log.write(step, {**scores.to_dict(), **scores.by_class()})
            with self.goodput.inside("saving"):
                self.saved.wait()
            self.saved.score(step, scores.best_by, scores.best_metric)
        say(f"Step {step}:\n{scores.table()}")
        return scores

    def conclude(self, step: int) -> None:
        """Waits until everything is saved, and says what the time was spent on."""
        with self.goodput.inside("saving"):
            self.saved.wait()
        self.goodput.note(step)
        say(self.goodput.table())

    def leave(self, step: int) -> NoReturn:
        """Ends the process that was told to stop after a saved step."""
        self.conclude(step)
        say(f"Told to stop: saved step {step}. The same command resumes from there.")
        sys.exit(self.preemption.exit_code)

    def _say_progress(self, step: int, scalars: dict[str, float], eta: str) -> None:
        unit, formats = self.task.unit, {"loss": ".4f", "accuracy": ".3f"}
        # There are none if no pixel had a label, or all steps were skipped.
        told = [f"{name} {scalars[name]:{f}}  " for name, f in formats.items() if name in scalars]
        rate = scalars[f"{unit}_per_second"]
        say(
            f"step {step}/{self.config.total_steps}  {''.join(told)}"
            f"lr {scalars['learning_rate']:.2e}  {rate:.1f} {unit}/s  ETA {eta}  "
            f"goodput {scalars['goodput']:.0%}"
        )
