"""What the steps report: fetched one step behind the device, refused where it is not finite.

What is not in the log yet is saved with a checkpoint, so that a run that goes on logs what it would
have logged anyway.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.console import say

Metrics = dict[str, jax.Array]

BEHIND = 1  # steps that the device may still be busy with when the host goes on


class StepMetrics:
    """The metrics of the steps since the last line of the log.

    Args:
      tolerated: how many steps of a run may have a loss or gradient that is not finite. The train
        step leaves the state as it was in such a step.
      describe: what the batch of a step holds, for people.
      saved: `state()` of the run that this one goes on from.
    """

    def __init__(
        self, tolerated: int, describe: Callable[[int], str], saved: Mapping[str, Any] | None = None
    ):
        self._tolerated, self._describe = tolerated, describe
        self._running: collections.deque[tuple[int, Metrics]] = collections.deque()
        self._skipped: list[int] = list(saved["skipped"]) if saved else []
        self._values: list[dict[str, float]] = list(saved["values"]) if saved else []

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes what a step gave, and waits for the step before it.

        Raises:
          UserError: that step was not finite, and no more such steps are tolerated.
        """
        self._running.append((step, metrics))
        while len(self._running) > BEHIND:
            self._fetch()

    def settle(self) -> None:
        """Waits for all steps.

        Raises:
          UserError: one was not finite, and no more such steps are tolerated.
        """
        while self._running:
            self._fetch()

    def means(self) -> dict[str, float]:
        """Means over the finite steps since the last call; NaN if there was none."""
        self.settle()
        values, self._values = self._values, []
        if not values:
            return dict.fromkeys(("loss", "accuracy"), float("nan"))
        return {name: float(np.mean([v[name] for v in values], dtype=float)) for name in values[0]}

    def state(self) -> dict[str, Any]:
        """What a run that goes on after the last step has to know, for JSON."""
        self.settle()
        return {"skipped": list(self._skipped), "values": list(self._values)}

    def _fetch(self) -> None:
        step, metrics = self._running.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if values.pop("finite"):
            self._values.append(values)
            return
        self._skipped.append(step)
        what = f"The loss or a gradient of step {step} is not finite. {self._describe(step)}"
        if len(self._skipped) > self._tolerated:
            raise UserError(
                f"{what} The last checkpoint is from before it. A lower "
                "config.optimizer.learning_rate may help, or a look at these examples; "
                f"config.skip_nonfinite_steps={len(self._skipped)} goes on without the step."
            )
        say(f"{what} Skipped: {len(self._skipped)} of {self._tolerated} that are tolerated.")
