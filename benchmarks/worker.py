"""What both frameworks' processes say to the one that compares them: JSON, a line at a time."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MARK = "REPLY "  # libraries print too


def serve(prepare: Callable[[dict[str, Any]], tuple[Callable[[int], Any], dict[str, Any]]]) -> None:
    """Reads a case, answers with what `prepare` says about it, then runs it as often as asked.

    `prepare` returns a function that does the case's work a number of times and waits for it, and
    facts for the record. Whatever it raises, out of memory above all, is the answer.
    """
    case = json.loads(sys.stdin.readline())
    try:
        start = time.perf_counter()
        run, facts = prepare(case)
        _reply({**facts, "ready_seconds": time.perf_counter() - start})
        for line in sys.stdin:
            start = time.perf_counter()
            facts = run(int(line)) or {}
            _reply({**facts, "seconds": (time.perf_counter() - start) / int(line)})
    except Exception as error:  # the other process decides what it means
        _reply({"error": f"{type(error).__name__}: {str(error)[:300]}"})


def _reply(message: dict[str, Any]) -> None:
    print(MARK + json.dumps(message), flush=True)


def example(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The same images [n, h, w, 3] and labels [n, h, w], both uint8, in either process."""
    rng = np.random.default_rng(0)
    shape = (case["batch"], *case["size"])
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    labels = rng.integers(0, case["classes"], shape, dtype=np.uint8)
    labels[:, : shape[1] // 8] = 255
    return images, labels
