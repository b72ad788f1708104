"""Errors and exit codes."""

import re

# What JAX says of another process that it can't reach, behind the name of a status.
LOST = re.compile(r"[A-Z_]+: .*(gloo|peer|connection|socket|heartbeat|barrier)", re.IGNORECASE)


EXIT_ERROR = 1  # of the program, or some images could not be read
EXIT_USER_ERROR = 2  # something that a person has to change
EXIT_PREEMPTED = 75  # told to stop, and saved; EX_TEMPFAIL of sysexits.h: try again
EXIT_INTERRUPTED = 130  # from the keyboard


class UserError(Exception):
    """An error that a person can correct. Commands print its message and exit with code 2."""


def lost_peer(error: BaseException | None) -> str | None:
    """One line of JAX's message if `error` says that another process is gone, else None."""
    line = str(error).strip().partition("\n")[0]
    return line if isinstance(error, RuntimeError | ValueError) and LOST.match(line) else None


def counted(number: int, noun: str) -> str:
    """A number of things in words: "1 problem", "2 problems"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
