"""OpenCV's settings, which apply to the whole process."""

import contextlib
import threading
from collections.abc import Iterator

import cv2

_LOCK = threading.Lock()
_silent_users = 0
_level_before = 0


def use_one_thread() -> None:
    """Lets OpenCV use one thread, because examples are processed in parallel already.

    Call it before the threads start that use OpenCV. The setting is not undone: OpenCV crashes if
    it is changed while another thread uses OpenCV.
    """
    with _LOCK:
        if cv2.getNumThreads() > 1:
            cv2.setNumThreads(0)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """A context without OpenCV's warnings: exceptions say what can't be read."""
    global _silent_users, _level_before
    with _LOCK:
        if _silent_users == 0:
            _level_before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        _silent_users += 1
    try:
        yield
    finally:
        with _LOCK:
            _silent_users -= 1
            if _silent_users == 0:
                cv2.utils.logging.setLogLevel(_level_before)
