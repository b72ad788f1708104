"""Processes that should join are called by name."""

import socket
import threading
import time

import jax  # noqa: F401  (sets TPU_SKIP_MDS_QUERY, as in every command)
from ports import free_port

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import cluster
from nonlocal_jax.runtime.cluster import Cluster


def call_the_roll(come, of, port, hosts=(), timeout=10.0):
    """What happens to the processes that come: a message for each, empty where all is well."""
    ended = {}

    def take_part(process_id):
        try:
            cluster.roll_call(Cluster(f"127.0.0.1:{port}", of, process_id, hosts), timeout)
            ended[process_id] = ""
        except UserError as error:
            ended[process_id] = str(error)

    threads = [threading.Thread(target=take_part, args=(process_id,)) for process_id in come]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_all_are_there():
    assert call_the_roll((2, 0, 1), 3, free_port()) == {0: "", 1: "", 2: ""}


def test_those_that_never_join_are_named_to_all_others():
    ended = call_the_roll((0, 2), 4, free_port(), ("a", "b", "c", "d"), timeout=2.0)
    assert ended.keys() == {0, 2}
    for message in ended.values():
        assert "2 of 4 processes never joined: process 1 (b), process 3 (d)" in message
        assert "2 s" in message


def test_a_first_process_that_never_comes_is_named():
    port = free_port()
    ended = call_the_roll((1,), 2, port, ("a", "b"), timeout=1.0)
    assert f"process 0 (a) never answered at 127.0.0.1:{port}" in ended[1]


def test_strangers_on_the_port_are_not_counted():
    port = free_port()

    def disturb():
        for line in (b"GET / HTTP/1.1\r\n", b'{"nonlocal_jax_process": 7}\n', b"[]\n"):
            for _ in range(40):
                try:
                    with socket.create_connection(("127.0.0.1", port)) as stranger:
                        stranger.sendall(line)
                    break
                except OSError:
                    time.sleep(0.05)

    stranger = threading.Thread(target=disturb)
    stranger.start()
    ended = call_the_roll((0,), 2, port, timeout=3.0)
    stranger.join()
    assert "1 of 2 processes never joined: process 1" in ended[0]


def test_a_port_that_is_taken_is_explained():
    with socket.create_server(("", 0)) as taken:
        ended = call_the_roll((0,), 2, taken.getsockname()[1], timeout=1.0)
    assert "can't listen" in ended[0] and "--coordinator" in ended[0]
