"""An iterator that runs ahead in a thread, and whose silence is an error."""

import ctypes
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import opencv

T = TypeVar("T")

PATIENCE = 300.0  # seconds; workers need a few to start, and a cold disk some more
SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl
CLOSING = 10.0  # seconds for the thread, and any workers, to end in good order


class _End:
    """Follows the last item, with what ended the iteration."""

    def __init__(self, error: BaseException | None):
        self.error = error


def worker_starts(_: int, __: int) -> None:
    """Makes a worker process live exactly as long as the process that wants its batches.

    A scheduler's SIGTERM and Ctrl-C often go to all processes of a job: the main one answers them.
    """
    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, signal.SIG_IGN)
    opencv.use_one_thread()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it died before it was watched
            os._exit(1)


def guarded(items: Iterable[T], *, buffered: int, patience: float = PATIENCE) -> Iterator[T]:
    """Iterates over `items` in another thread, `buffered` of them ahead.

    Args:
      items: what to iterate over; abandoned when the returned iterator is closed or dropped.
      buffered: how many may be ready beside the one in use.
      patience: seconds to wait for one of them.

    Raises:
      UserError: nothing came for `patience` seconds. Whatever `items` raises is raised here; a
        UserError within it comes alone.
    """
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=buffered)
    stop = threading.Event()

    def put(item: T | _End) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def run() -> None:
        iterator: Iterator[T] | None = None
        try:
            iterator = iter(items)
            for item in iterator:
                put(item)
                if stop.is_set():
                    return
            put(_End(None))
        except BaseException as error:  # handed to the consumer, whatever it is
            put(_End(error))
        finally:
            if (close := getattr(iterator, "close", None)) is not None:
                close()  # ends grain's worker processes

    thread = threading.Thread(target=run, name="input", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = ready.get(timeout=patience)
            except queue.Empty:
                raise UserError(
                    f"No batch came from the input pipeline for {patience:.0f} seconds: a worker "
                    "hangs or the disk does. Look at the data's storage, and restart; the run "
                    "resumes from its last checkpoint."
                ) from None
            if isinstance(item, _End):
                if item.error is None:
                    return
                raise _user_error(item.error) from item.error
            yield item
    finally:
        stop.set()
        thread.join(timeout=CLOSING)


def _user_error(error: BaseException) -> BaseException:
    """The UserError that `error` was raised from, one for a dead worker, or `error` itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, RuntimeError) and "terminated unexpectedly" in str(error):  # grain's words
        return UserError(
            f"An input worker died: {error} Where nothing is logged, memory or /dev/shm ran out: "
            "lower config.data.num_workers, or give the container more (docker run --shm-size=8g). "
            "The run resumes from its last checkpoint."
        )
    return error
