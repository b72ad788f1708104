"""The metrics of steps. They are fetched one step behind the device, and must be finite.

Metrics that are not logged yet are saved with a checkpoint. So a resumed run logs the same means as
one that was not interrupted.
"""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.console import say

Metrics = dict[str, jax.Array]

BEHIND = 1  # steps that may still run on the device while the host continues


class StepMetrics:
    """The metrics of the steps since the last line of the log.

    Args:
      tolerated: number of steps in a run whose loss or gradient may be infinite or NaN. The train
        step does not change the state in such a step.
      describe: a sentence on what the batch of a step holds.
      saved: `state()` of the run that is resumed.
    """

    def __init__(
        self, tolerated: int, describe: Callable[[int], str], saved: Mapping[str, Any] | None = None
    ):
        self._tolerated, self._describe = tolerated, describe
        self._running: collections.deque[tuple[int, Metrics]] = collections.deque()
        self._skipped: list[int] = list(saved["skipped"]) if saved else []
        self._values: list[dict[str, float]] = list(saved["values"]) if saved else []

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds the metrics of a step, and waits for the step before it.

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
        """Means over the finite steps since the last call that have a value; empty without any."""
        self.settle()
        values, self._values = self._values, []
        names = dict.fromkeys(name for value in values for name in value)
        return {n: float(np.mean([v[n] for v in values if n in v], dtype=float)) for n in names}

    def state(self) -> dict[str, Any]:
        """What a run needs to resume after the last step, as JSON can hold it."""
        self.settle()
        return {"skipped": list(self._skipped), "values": list(self._values)}

    def _fetch(self) -> None:
        step, metrics = self._running.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if values.pop("finite"):
            # Where no pixel is labelled, there is no accuracy.
            self._values.append({k: v for k, v in values.items() if not math.isnan(v)})
            return
        self._skipped.append(step)
        what = f"The loss or a gradient of step {step} is not finite. {self._describe(step)}"
        if len(self._skipped) > self._tolerated:
            raise UserError(
                f"{what} The last checkpoint is from before it. Look at these examples, or "
                "try a lower config.optimizer.learning_rate. "
                f"config.skip_nonfinite_steps={len(self._skipped)} leaves the step out."
            )
        say(f"{what} Skipped: {len(self._skipped)} of {self._tolerated} that are tolerated.")
