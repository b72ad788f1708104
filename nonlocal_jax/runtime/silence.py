"""Tells a run of several processes that one of them does not answer.

JAX waits some 100 seconds for such a process, and then ends the others with a message of its own.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax

from nonlocal_jax.runtime.console import say

PATIENCE = 30.0  # seconds that a step and a save may take before it is told


class Silence:
    """Watches how long this process waits for the others. A process alone is not watched."""

    def __init__(self, patience: float = PATIENCE):
        self._patience = patience
        self._since: float | None = None
        self._closed = threading.Event()
        if jax.process_count() > 1:
            threading.Thread(target=self._watch, name="silence", daemon=True).start()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Does not watch what is inside, which may take long without any other process.

        Then the clock starts: a message is printed if no method is called within the patience.
        """
        self._since = None
        yield
        self._since = time.monotonic()

    def close(self) -> None:
        """Ends the watch."""
        self._since = None
        self._closed.set()

    def _watch(self) -> None:
        told = None
        while not self._closed.wait(self._patience / 10):
            since = self._since
            if since is None or since == told or time.monotonic() - since < self._patience:
                continue
            told = since
            say(
                f"No step for {self._patience:.0f} s: another process is stopped, or its machine "
                "or the network is gone. JAX waits for it, and ends this process after 100 s. "
                "Start all of them again then: the run resumes from its newest checkpoint.",
                everywhere=True,  # the first process may be the one that is stopped
            )
