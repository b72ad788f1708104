"""Standard output and standard error that end no work.

A pipe may be closed by its reader, a log may be on a full disk, and a stream may never have been
open. What is printed then is lost, and the command goes on.
"""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# All but tab, line feed and carriage return, and what reverses the direction of text.
_STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Lasting:
    """A text stream that drops what can't be written.

    Args:
      stream: the stream.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes `text`, or drops it; returns its length.

        Signs that steer a terminal are written as \\x1b: names of files may hold them.
        """
        with self._dropping():
            self._stream.write(_STEERING.sub(lambda sign: ascii(sign[0])[1:-1], text))
        return len(text)

    def flush(self) -> None:
        """Hands on what was written, or drops it."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._stream = _nowhere(self._stream)
            if error.errno != errno.EPIPE and self is sys.stdout:
                sys.stderr.write(
                    f"nonlocal_jax: what is printed from here on is lost ({error.strerror}). The "
                    "work goes on.\n"
                )


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Inside, writing to standard output or standard error never fails.

    What can't be written is dropped, and what can't be encoded is escaped.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_lasting, before)
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO | None) -> Any:
    if stream is None:  # it was closed before Python started
        return open(os.devnull, "w")
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream if isinstance(stream, Lasting) else Lasting(stream)


def _nowhere(stream: TextIO) -> TextIO:
    """The stream, or another one, that leads nowhere."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (it stays open)
    with contextlib.suppress(OSError, ValueError):  # libraries write to the number, too
        os.dup2(nowhere.fileno(), stream.fileno())
    return nowhere
