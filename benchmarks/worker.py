"""What a measured process says to the one that compares: JSON, a line at a time."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MARK = "REPLY "  # libraries print too
Facts = dict[str, Any]


@dataclasses.dataclass
class Work:
    """A compiled program.

    Attributes:
      facts: what is known once it is compiled.
      start: puts its arrays on the device, runs it once, and says what came out.
      run: runs it a number of times and waits for it.
      trace: runs it and writes a table of its kernels to a file, if the framework can.
    """

    facts: Facts
    start: Callable[[], Facts]
    run: Callable[[int], None]
    trace: Callable[[str], Facts] = lambda _: {}


def serve(prepare: Callable[[Facts], Work]) -> None:
    """Reads a case, compiles it with `prepare`, and does what it is asked to.

    Asked for are "start", "run TIMES" and "trace FILE". Whatever is raised, out of memory above
    all, is the answer, and the end.
    """
    case = json.loads(sys.stdin.readline())
    try:
        begin = time.perf_counter()
        work = prepare(case)
        _reply({**work.facts, "ready_seconds": time.perf_counter() - begin})
        for line in sys.stdin:
            _reply(_answer(work, *line.split(maxsplit=1)))
    except Exception as error:  # the other process decides what it means
        _reply({"error": f"{type(error).__name__}: {str(error)[:500]}"})


def _answer(work: Work, asked: str, argument: str = "") -> Facts:
    if asked == "start":
        return work.start()
    if asked == "trace":
        return work.trace(argument.strip())
    begin = time.perf_counter()
    work.run(int(argument))
    return {"seconds": (time.perf_counter() - begin) / int(argument)}


def _reply(message: Facts) -> None:
    print(MARK + json.dumps(message), flush=True)


def example(case: Facts) -> tuple[np.ndarray, np.ndarray]:
    """The same images [n, h, w, 3] and labels [n, h, w], both uint8, in every process."""
    rng = np.random.default_rng(0)
    shape = (case["batch"], *case["size"])
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    labels = rng.integers(0, case["classes"], shape, dtype=np.uint8)
    labels[:, : shape[1] // 8] = 255
    return images, labels
