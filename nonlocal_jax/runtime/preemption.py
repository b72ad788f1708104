"""Being told to stop: SIGTERM, which is also how a cloud takes a machine away.

Before the first step there is nothing to save, and a process leaves at once. From then on the loop
asks after every step, and evaluation after every batch. Several processes agree where to stop,
whichever of them is told: JAX takes the signal over when `jax.distributed` is initialised.
"""

import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from nonlocal_jax.errors import EXIT_PREEMPTED


class Preempted(Exception):
    """Raised out of what can be given up, and made again, when the process is told to stop."""


class Preemption:
    """Listens for SIGTERM from its making on; to be made in the main thread."""

    def __init__(self) -> None:
        self._signalled, self._begun = threading.Event(), False
        self._questions, self._told = 0, False
        signal.signal(signal.SIGTERM, self._listen)
        # Compiling holds the main thread for minutes, and Python's own handlers with it.
        wakened, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(wakened,), daemon=True).start()

    def begin(self) -> None:
        """Says that from now on there is something to save."""
        self._begun = True

    def told(self) -> bool:
        """Whether to save and leave; the same in every process, if all ask equally often."""
        if jax.process_count() == 1:
            return self._signalled.is_set()
        self._questions += 1
        self._told = self._told or multihost_utils.reached_preemption_sync_point(self._questions)
        return self._told

    def give_up_if_told(self) -> None:
        """Raises Preempted if the process is to leave."""
        if self.told():
            raise Preempted

    def _listen(self, _: int, __: FrameType | None) -> None:
        self._signalled.set()

    def _watch(self, wakened: int) -> None:
        """Reads the numbers of signals as they come, whatever the main thread does."""
        while True:
            if signal.SIGTERM in os.read(wakened, 64):
                self._signalled.set()
                if not self._begun:
                    _leave()


def _leave() -> None:
    sys.stderr.write("Told to stop before the first step: there is nothing to save.\n")
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # nobody else ends them after os._exit
        child.kill()
    os._exit(EXIT_PREEMPTED)
