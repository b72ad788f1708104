"""A server in a process of its own, and clients that know what it must answer."""

import concurrent.futures
import contextlib
import io
import os
import queue
import re
import subprocess
import sys
import threading
import time
import zlib

import httpx
import numpy as np
from evaluations import config_for, saved
from networks import TESTS
from PIL import Image

from nonlocal_jax.evaluation import predictor

TALL = (300, 40, 3)
HEALTHY = 240  # seconds to start on a busy machine


def checkpoint(root, path, head="fcn"):
    """A network that compiles fast, and whose masks have several classes and differ."""
    values = {"model.backbone.depth": 18, "model.auxiliary_head.loss_weight": 0.0}
    if head == "fcn":
        values |= {"model.decode_head.name": head, "model.decode_head.num_convs": 1}
    return saved(config_for(root, **values), path)


def png(image):
    """An array as the bytes of a PNG."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "PNG")
    return encoded.getvalue()


def huge_png(side):
    """A valid PNG of a few kilobytes with side x side black pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(1 + -(-side // 8))) for _ in range(side)) + pack.flush()
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def expected(path, images):
    """The masks of images by the predictor, in this process."""
    model = predictor.load(path)
    return [model.predict(image) for image in images]


def decoded(content):
    """The array of a PNG."""
    return np.asarray(Image.open(io.BytesIO(content)))


class Server:
    """A process that serves a checkpoint.

    Attributes:
      url: where.
      process: the process.
      said: lines of its output so far.
    """

    def __init__(self, process):
        self.process, self.said, self._lines = process, [], queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for(r"Listening on (\S+)\.")

    def _read(self):
        for line in self.process.stdout:
            self.said.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern):
        """The first group of a pattern, or all of it, as soon as a line has it."""
        while (line := self._lines.get(timeout=HEALTHY)) is not None:
            if found := re.search(pattern, line):
                return found[found.lastindex or 0]
        raise AssertionError(f"It ended without {pattern}:\n{''.join(self.said)}")

    def wait_until_ready(self):
        """Returns when /health says so."""
        self.wait_for("Ready after")
        assert httpx.get(f"{self.url}/health").json() == {"status": "ready"}

    def signal(self, number):
        """Sends a signal to the process."""
        self.process.send_signal(number)

    def ended(self, timeout=60):
        """The exit code, and all that it said."""
        code = self.process.wait(timeout)
        self._reader.join(10)
        return code, "".join(self.said)

    def memory(self):
        """Resident megabytes."""
        return metrics(self.url)["process_resident_memory_bytes"] / 2**20


@contextlib.contextmanager
def serving(path, *flags):
    """A server of a checkpoint on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nonlocal_jax.serve", f"--checkpoint={path}", "--port=0", *flags],
        cwd=TESTS.parent,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        process.kill()
        process.wait()


def begin(server, images, pool):
    """Requests that wait for a program which is not compiled yet: TALL images."""
    bodies = [png(np.resize(image, TALL)) for image in images]
    begun = [
        pool.submit(httpx.post, f"{server.url}/mask", content=body, timeout=120) for body in bodies
    ]
    while metrics(server.url)["nonlocal_jax_queue_length"] < len(images):
        time.sleep(0.02)
    return begun


def metrics(url):
    """The metrics of a server by name with labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


class Load:
    """Clients that send images at the same time, and compare the masks bit for bit.

    Attributes:
      seconds: that each correct answer took.
      wrong: what was not as expected, and why.
      refused: connections that were not accepted.
    """

    def __init__(self, url, images, masks, clients):
        self.url, self.clients = url, clients
        self._files = [png(image) for image in images]
        self._masks = masks
        self.seconds, self.wrong, self.refused = [], [], 0

    def run(self, rounds=None, until=None):
        """Each client sends `rounds` images, or sends until a time.monotonic()."""
        with concurrent.futures.ThreadPoolExecutor(self.clients) as pool:
            for done in [pool.submit(self._client, n, rounds, until) for n in range(self.clients)]:
                done.result()

    def _client(self, number, rounds, until):
        with httpx.Client(timeout=120, verify=False) as client:  # certificates take long to read
            turn = 0
            while turn < rounds if rounds else time.monotonic() < until:
                which = (number + turn * 7) % len(self._files)
                turn += 1
                if not self._send(client, which):
                    return

    def _send(self, client, which):
        """Returns whether the server still accepts connections."""
        begun = time.perf_counter()
        try:
            answer = client.post(f"{self.url}/mask", content=self._files[which])
        except httpx.ConnectError:
            self.refused += 1
            return False
        except httpx.HTTPError as error:
            self.wrong.append((which, repr(error)))
            return True
        if answer.status_code != 200:
            self.wrong.append((which, f"{answer.status_code} {answer.text}"))
        elif not np.array_equal(decoded(answer.content), self._masks[which]):
            self.wrong.append((which, "another mask"))
        else:
            self.seconds.append(time.perf_counter() - begun)
        return True
