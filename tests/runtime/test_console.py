"""Messages in the terminal."""

import subprocess
import sys

ALONE = """
import socket
import jax
from nonlocal_jax.runtime.console import say
say("found")
with socket.socket() as server:
    server.bind(("", 0))
    port = server.getsockname()[1]
jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0)
"""


def test_a_message_chooses_no_device():
    """Processes join after messages about their input; JAX refuses that once it has a device."""
    ended = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "found\n"
