"""Being told to stop: SIGTERM, which is also how a cloud takes a machine away."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Listens for SIGTERM from its making on.

    Several processes agree on the step to stop at, whichever of them is told; JAX itself listens
    there once `jax.distributed` is initialised.
    """

    def __init__(self) -> None:
        self._told = False
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._listen)

    def _listen(self, _: int, __: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save this step and leave; the same in every process."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)
