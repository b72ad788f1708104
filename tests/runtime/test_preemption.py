"""A process that loses another one leaves as it was told, if it was told to stop."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
from nonlocal_jax.runtime.preemption import Preemption

preemption = Preemption()
preemption.begin()
if sys.argv[1] != "none":
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    time.sleep(0.5)
with preemption.leave_with_others():
    raise RuntimeError(sys.argv[2])
"""
LOST = "UNKNOWN: Gloo context initialization failed: Connection closed by peer"


@pytest.mark.parametrize(
    ("told", "error", "code"),
    [
        ("SIGINT", LOST, 130),
        ("SIGTERM", LOST, 75),
        ("SIGHUP", LOST, 75),
        ("SIGINT", "another mistake", 1),
        ("none", LOST, 1),
    ],
)
def test_one_that_was_told_to_stop_follows_another_that_left(told, error, code):
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, told, error], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == code, ended.stderr
    assert ("Traceback" in ended.stderr) == (code == 1)
    assert ("has left already" in ended.stderr) == (code != 1)
