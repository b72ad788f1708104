"""Messages in the terminal while a command runs."""

import contextlib
import threading
import time
from collections.abc import Iterator

import jax


def say(message: str, *, everywhere: bool = False) -> None:
    """Prints a line, in the first process only or `everywhere`.

    Before processes have joined, each prints. JAX may not be asked then: it would choose a device.
    """
    if everywhere or not jax.distributed.is_initialized() or jax.process_index() == 0:
        print(message, flush=True)


@contextlib.contextmanager
def working(what: str, *, every: float = 15.0) -> Iterator[None]:
    """Prints what starts, the seconds so far at intervals, and the seconds at the end."""
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
    """Images per second since the last reading, and the remaining time."""

    def __init__(self, total_steps: int, batch_size: int):
        self._total, self._batch = total_steps, batch_size
        self._step, self._start = 0, time.perf_counter()

    def restart(self, step: int) -> None:
        """Starts measuring at `step`."""
        self._step, self._start = step, time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Does not count the time inside the context, such as that of an evaluation."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def read(self, step: int) -> tuple[float, str]:
        """Images per second since the last reading, and the remaining time as "h:mm:ss"."""
        seconds = time.perf_counter() - self._start
        per_step = seconds / max(step - self._step, 1)
        self.restart(step)
        return self._batch / per_step, clock(per_step * (self._total - step))


def clock(seconds: float) -> str:
    """Seconds as "h:mm:ss"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
