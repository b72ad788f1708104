"""OpenCV's settings, which are those of the whole process."""

import contextlib
import threading
from collections.abc import Iterator

import cv2

_LOCK = threading.Lock()
_silent_users = 0
_level_before = 0


def use_one_thread() -> None:
    """Keeps OpenCV from starting threads of its own: what runs in parallel are examples.

    Call it before the threads start that use OpenCV. It stays so: OpenCV crashes if the number is
    changed while another thread is at work in it.
    """
    with _LOCK:
        if cv2.getNumThreads() > 1:
            cv2.setNumThreads(0)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Context without OpenCV's warnings: what can't be read is told by exceptions."""
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
