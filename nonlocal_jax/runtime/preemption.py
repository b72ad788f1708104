"""Stopping on SIGTERM, which a cloud sends before it takes a machine away, and on Ctrl-C.

A terminal that is closed sends SIGHUP, which is as SIGTERM, unless it is ignored as under nohup.

Before the first step there is nothing to save, and the process exits at once. Later the training
loop asks after each step, and the evaluation after each batch. A second Ctrl-C exits at once. A
process that is still running `PATIENCE` seconds after the signal exits, too. Several processes
agree on the step to stop at, whichever of them got the signal: JAX handles SIGTERM once
`jax.distributed` is initialised.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from nonlocal_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, lost_peer

PATIENCE = 120.0  # seconds: a step and a save, or a batch of an evaluation
EXIT_CODES = {
    signal.SIGTERM: EXIT_PREEMPTED,
    signal.SIGHUP: EXIT_PREEMPTED,
    signal.SIGINT: EXIT_INTERRUPTED,
}


class Preempted(Exception):
    """Raised to abandon work that can be repeated, when the process is told to stop."""


class Preemption:
    """Listens for SIGTERM, SIGHUP and Ctrl-C. Create it in the main thread.

    Attributes:
      exit_code: the code to exit with, once everything is saved.
    """

    def __init__(self) -> None:
        self.exit_code = EXIT_PREEMPTED
        self._signalled, self._begun = threading.Event(), False
        self._questions, self._told, self._interrupts = 0, False, 0
        for number in EXIT_CODES:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._listen)
        # Compiling blocks the main thread for minutes, and Python's signal handlers run there.
        wakened, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(wakened,), daemon=True).start()

    def begin(self) -> None:
        """From now on there is something to save."""
        self._begun = True

    def told(self) -> bool:
        """Whether to save and exit. All processes get the same answer if all ask equally often."""
        if jax.process_count() == 1:
            return self._signalled.is_set()
        self._questions += 1
        self._told = self._told or multihost_utils.reached_preemption_sync_point(self._questions)
        return self._told

    @contextlib.contextmanager
    def leave_with_others(self) -> Iterator[None]:
        """If this process was told to stop and loses its peers, exits with the code for stopping.

        Another process that was told, too, may have left before its first step.
        """
        try:
            yield
        except Exception as error:
            if self._signalled.is_set() and lost_peer(error):
                _leave(self.exit_code, _LEFT)
            raise

    def give_up_if_told(self) -> None:
        """Raises Preempted if the process is told to stop."""
        if self.told():
            raise Preempted

    def _listen(self, _: int, __: FrameType | None) -> None:
        self._signalled.set()

    def _watch(self, wakened: int) -> None:
        """Reads the numbers of signals as they arrive, also while the main thread is blocked."""
        while True:
            for number in os.read(wakened, 64):
                if number in EXIT_CODES:
                    self._hear(signal.Signals(number))

    def _hear(self, number: signal.Signals) -> None:
        self._interrupts += number == signal.SIGINT
        if not self._begun:
            _leave(
                EXIT_CODES[number], "Told to stop before the first step: there is nothing to save."
            )
        if self._interrupts > 1:
            _leave(EXIT_INTERRUPTED, "Interrupted twice: the last steps are not saved.")
        if number == signal.SIGINT:
            self.exit_code = EXIT_INTERRUPTED
            sys.stderr.write("\nInterrupted: saving. Interrupt again to leave at once.\n")
        if number != signal.SIGTERM and jax.process_count() > 1:  # JAX listens for SIGTERM alone
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._signalled.is_set():
            self._signalled.set()
            late = threading.Timer(PATIENCE, _leave, (self.exit_code, _LATE))
            late.daemon = True
            late.start()


_LEFT = (
    "Told to stop, as another process was, which has left already. The same command resumes from "
    "the newest checkpoint, if there is one."
)
_LATE = (
    f"Told to stop {PATIENCE:.0f} seconds ago, and something still hangs: leaving. The same "
    "command resumes from the newest checkpoint."
)


def _leave(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    for child in multiprocessing.active_children():  # os._exit would leave them running
        child.kill()
    os._exit(code)
