"""What a person sees in the terminal while something runs."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax


def say(message: str) -> None:
    """A line in the terminal, from the first process alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


@contextlib.contextmanager
def working(what: str, *, every: float = 15.0) -> Iterator[None]:
    """Says what starts, that it goes on every few seconds, and how long it took."""
    start = time.perf_counter()
    done = threading.Event()
    say(f"{what} ...")

    def tick() -> None:
        while not done.wait(every):
            say(f"{what} ... {time.perf_counter() - start:.0f} s so far")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    say(f"{what}: {time.perf_counter() - start:.1f} s")


class Rate:
    """Images a second since the last reading, and the time that the rest will take."""

    def __init__(self, total_steps: int, batch_size: int):
        self._total, self._batch = total_steps, batch_size
        self._step, self._start = 0, time.perf_counter()

    def restart(self, step: int) -> None:
        """Starts measuring at `step`."""
        self._step, self._start = step, time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out what happens inside, evaluation for one."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def read(self, step: int) -> tuple[float, str]:
        """Images a second since the last reading, and "h:mm:ss" to the last step."""
        seconds = time.perf_counter() - self._start
        per_step = seconds / max(step - self._step, 1)
        self.restart(step)
        return self._batch / per_step, clock(per_step * (self._total - step))


def clock(seconds: float) -> str:
    """Seconds as "h:mm:ss"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
