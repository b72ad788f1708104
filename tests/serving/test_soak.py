"""A minute of load: 64 clients, bad images in between, memory, and the ends that take long.

It prints its figures: python -m pytest -m soak tests/serving -s
"""

import json
import re
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from evaluations import label, picture, write_folder
from serving import Load, begin, checkpoint, expected, huge_png, metrics, serving

pytestmark = pytest.mark.soak
CLIENTS, SECONDS = 64, 60
SIZES = [(120, 160), (160, 120), (90, 160), (64, 64), (200, 301), (33, 47), (150, 149), (97, 260)]
GROWTH = 0.05  # of memory, over the minute
BAD = (
    (b"no image", 422),
    (b"", 400),
    (bytes(3_000_000), 413),
    (huge_png(20_000), 413),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint with a non-local block."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root, {"0": (picture(0), label(0))})
    return checkpoint(root, root / "checkpoint", head="nonlocal")


def pictures():
    """Three of each size, all different."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES * 3]
    return [each // 2 + np.resize(picture(i % 6), each.shape) // 2 for i, each in enumerate(noise)]


def disturb(url, until):
    """Sends what is refused, until then; returns how often, and what was answered otherwise."""
    sent, wrong = 0, []
    with httpx.Client(timeout=120) as client:
        while time.monotonic() < until:
            body, status = BAD[sent % len(BAD)]
            answer = client.post(f"{url}/overlay", content=body)
            if answer.status_code != status or list(answer.json()) != ["error"]:
                wrong.append((status, answer.status_code, answer.text))
            sent += 1
            time.sleep(0.2)
    return sent, wrong


def watch(server, until, readings):
    """Adds the server's memory to `readings`, in MiB, each second."""
    while time.monotonic() < until:
        readings.append(server.memory())
        time.sleep(1)


def test_a_minute_of_64_clients_loses_nothing_and_mixes_nothing_up(saved):
    images = pictures()
    masks = expected(saved, images)
    assert len({mask.tobytes() for mask in masks}) == len(masks), "a mix-up would show"
    warm = ",".join(f"{height}x{width}" for height, width in SIZES)
    readings = []
    with (
        serving(saved, f"--warm={warm}", "--max_bytes=1000000") as server,
        ThreadPoolExecutor() as p,
    ):
        server.wait_until_ready()
        Load(server.url, images, masks, CLIENTS).run(rounds=40)  # until memory is what it will be
        load = Load(server.url, images, masks, CLIENTS)
        begun = time.monotonic()
        before = metrics(server.url)
        bad = p.submit(disturb, server.url, begun + SECONDS)
        p.submit(watch, server, begun + SECONDS, readings)
        load.run(until=begun + SECONDS)
        seconds = time.monotonic() - begun
        after, (refused, wrong) = metrics(server.url), bad.result()

        def grew(name):
            return after[f"nonlocal_jax_{name}"] - before[f"nonlocal_jax_{name}"]

        took = sorted(load.seconds)
        first, last = (statistics.median(part) for part in (readings[:5], readings[-5:]))
        figures = {
            "clients": CLIENTS,
            "requests": len(took),
            "per_second": round(len(took) / seconds, 1),
            "median_seconds": round(statistics.median(took), 3),
            "p99_seconds": round(took[int(0.99 * len(took))], 3),
            "images_per_call": round(grew("batch_images_sum") / grew("batch_images_count"), 2),
            "refused": refused,
            "wrong": len(load.wrong) + len(wrong),
            "memory_mib": {
                "first": round(first),
                "last": round(last),
                "most": round(max(readings)),
            },
        }
        print(json.dumps(figures))
        assert load.wrong == [] and wrong == [] and load.refused == 0
        assert grew("images_total") == len(took) and grew("compilations_total") == 0
        assert refused > 20 and len(took) > CLIENTS
        assert last < first * (1 + GROWTH), readings

        stopping = Load(server.url, images, masks, CLIENTS)
        answered = 1 + sum(v for k, v in metrics(server.url).items() if "requests_total" in k)
        running = threading.Thread(target=stopping.run, args=(None, time.monotonic() + 120))
        running.start()
        while len(stopping.seconds) < CLIENTS:
            time.sleep(0.1)
        server.signal(signal.SIGTERM)
        code, said = server.ended()
        running.join()
    # An idle connection may close while a request is on its way; the server has not begun that one.
    # What it has begun, its client has got.
    unanswered = ("RemoteProtocolError", "ReadError", "WriteError")
    assert all(why.startswith(unanswered) for _, why in stopping.wrong), stopping.wrong
    begun_in_all = int(re.search(r"Stopped: (\d+) requests were answered, 0 were cut", said)[1])
    assert begun_in_all - answered == len(stopping.seconds) > CLIENTS
    assert code == 0 and "Traceback" not in said
    print(f"stopped under load: {len(stopping.seconds)} right masks, none cut off")


def test_what_takes_longer_than_the_grace_is_cut_off_with_503(saved):
    with serving(saved, "--warm=50x50", "--grace=0") as server, ThreadPoolExecutor() as pool:
        server.wait_until_ready()
        begun = begin(server, pictures()[:3], pool)
        server.signal(signal.SIGTERM)
        answers = [request.result() for request in begun]
        code, said = server.ended(20)
    assert [answer.status_code for answer in answers] == [503] * 3
    assert all(answer.json() == {"error": "The server stops."} for answer in answers)
    assert code == 1 and "3 were cut off" in said


def test_a_second_signal_ends_it_at_once(saved):
    with serving(saved, "--warm=50x50") as server, ThreadPoolExecutor() as pool:
        server.wait_until_ready()
        begun = begin(server, pictures()[:2], pool)
        server.signal(signal.SIGINT)
        server.wait_for("Stopping. Still to be answered: 2")
        server.signal(signal.SIGINT)
        code, said = server.ended(5)
        assert code == 130 and "Told to stop twice" in said
        assert all(isinstance(request.exception(), httpx.TransportError) for request in begun)
