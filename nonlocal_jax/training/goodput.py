"""Goodput: the share of a run's time in which it learns.

The time is that since the run's first start, over all restarts. The categories are those of
Google's ml-goodput-measurement. Times are kept in the run's folder.
"""

import contextlib
import json
import math
import pathlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax

from nonlocal_jax.reporting import time_spent
from nonlocal_jax.reporting.time_spent import BUCKETS, FILE, INPUT, REPEATED, STEPS
from nonlocal_jax.runtime.console import say
from nonlocal_jax.runtime.files import write_whole


@runtime_checkable
class Result(Protocol):
    """What the device is computing, such as a jax.Array."""

    def block_until_ready(self) -> object:
        """Returns when it is computed."""


class Goodput:
    """Divides the time of a run into buckets. All processes count, and the first one writes.

    Args:
      workdir: the folder of the run; None counts this process alone, and writes nothing.
    """

    def __init__(self, workdir: pathlib.Path | None):
        self._file = None if workdir is None or jax.process_index() > 0 else workdir / FILE
        self._seconds = dict.fromkeys(BUCKETS, 0.0)
        self._reached = 0  # the last step that any process of this run has noted
        self._bucket, self._since = "starting", time.perf_counter()
        if self._file is not None and self._file.exists():
            self._go_on(self._file)
        self._finished = _Finished(self._since)

    def _go_on(self, file: pathlib.Path) -> None:
        """Takes over what earlier starts have noted."""
        try:
            content = json.loads(file.read_bytes())
            seconds = {name: float(content["seconds"][name]) for name in BUCKETS}
            noted, reached = float(content["noted"]), int(content["step"])
            if not all(math.isfinite(s) and s >= 0 for s in (*seconds.values(), noted)):
                raise ValueError("a time that is none")
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            say(f"{file} can't be read: goodput is counted from this start on.")
            return
        seconds["down"] += max(time.time() - noted, 0.0)
        self._seconds, self._reached = seconds, reached

    def _switch(self, bucket: str) -> float:
        """From now on time belongs to another bucket. Returns the clock."""
        now = time.perf_counter()
        self._seconds[self._bucket] += now - self._since
        self._bucket, self._since = bucket, now
        return now

    @contextlib.contextmanager
    def inside(self, bucket: str) -> Iterator[None]:
        """The time inside the context belongs to a bucket."""
        before = self._bucket
        self._switch(bucket)
        try:
            yield
        finally:
            self._finished.at = self._switch(before)

    def begin(self, step: int) -> None:
        """The steps after `step` begin now."""
        self._finished.at = self._switch(REPEATED if step < self._reached else STEPS)

    def got_batch(self) -> None:
        """A batch has come. If the device had nothing to do before, it was waiting for input."""
        if (since := self._finished.idle_since()) is None:
            return
        idle = max(time.perf_counter() - since, 0.0)
        self._seconds[INPUT] += idle
        self._since += idle  # no longer time of the steps

    def started(self, step: int, result: Result) -> None:
        """A step was given to the device; `result` is one of its results."""
        self._finished.follow(result)
        if step > self._reached and self._bucket == REPEATED:
            self._switch(STEPS)

    def share(self) -> float:
        """The share of the training steps in the time so far, from 0 to 1."""
        self._switch(self._bucket)
        return self._seconds[STEPS] / max(sum(self._seconds.values()), 1e-9)

    def note(self, step: int) -> float:
        """Keeps the times so far, after a finished step, and returns `share`.

        A failed write is ignored: the log and the checkpoints report a full disk.
        """
        share = self.share()
        self._reached = max(self._reached, step)
        if self._file is not None:
            content = {"step": self._reached, "noted": time.time(), "seconds": self._seconds}
            with contextlib.suppress(OSError):
                write_whole(self._file, json.dumps(content, indent=1) + "\n")
        return share

    def table(self) -> str:
        """The buckets with their seconds and shares, as text."""
        self._switch(self._bucket)
        return time_spent.table(self._seconds)

    def close(self) -> None:
        """Ends the thread that follows the device."""
        self._finished.close()


class _Finished:
    """When the device has finished the last step that it was given.

    A thread waits for each step, so the training loop reads no clock while the device is busy.
    """

    def __init__(self, now: float):
        self.at = now
        self._given, self._done = 0, 0
        self._results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="goodput", daemon=True)
        self._thread.start()

    def follow(self, result: Result) -> None:
        """The device was given another step."""
        self._given += 1
        self._results.put(result)

    def idle_since(self) -> float | None:
        """Since when the device has had nothing to do; None while it has."""
        return self.at if self._done == self._given else None

    def close(self) -> None:
        """Ends the thread, unless the device hangs."""
        self._results.put(None)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while (result := self._results.get()) is not None:
            # The loop raises what the step raises.
            with contextlib.suppress(Exception):
                result.block_until_ready()
            self.at = time.perf_counter()
            self._done += 1
