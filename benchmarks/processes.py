"""Processes that hold a compiled program each, seen from the one that compares them."""

import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from typing import IO, Any

HERE = pathlib.Path(__file__).resolve().parent
Facts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is measured in one process.

    Attributes:
      name: in the table.
      framework: "jax" or "torch".
      python: what runs it.
      case: what it is told.
      repository: whose package it measures.
      environment: beside this process's own.
      gigabytes: of device memory that compiling may take, roughly.
      traced: whether its kernels are listed.
      last: whether it may be left out if compiling takes long.
    """

    name: str
    framework: str
    python: str
    case: Facts
    repository: pathlib.Path = HERE.parent
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    gigabytes: float = 0.0
    traced: bool = False
    last: bool = False


class Worker:
    """The process of a program; `facts` grows with every answer, and tells of an error."""

    def __init__(self, program: Program, log: pathlib.Path):
        self.program, self.facts = program, Facts()
        self._log = log
        self._answers: queue.Queue[Facts] = queue.Queue()
        path = os.pathsep.join([str(program.repository), os.environ.get("PYTHONPATH", "")])
        preset = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": path}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [program.python, HERE / f"{program.framework}_worker.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **preset, **program.environment},
            )
        assert self._process.stdin and self._process.stdout
        self._stdin: IO[str] = self._process.stdin
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        self._say(json.dumps(program.case))

    def answered(self, seconds: float = 0.0) -> bool:
        """Whether an answer is there, or comes in time; it is added to `facts`."""
        try:
            self.facts |= (
                self._answers.get(timeout=seconds) if seconds else self._answers.get(False)
            )
        except queue.Empty:
            return False
        return True

    def ask(self, line: str, seconds: float) -> Facts:
        """Says a line, and returns the facts with its answer; whoever is late has failed."""
        if "error" not in self.facts:
            self._say(line)
            if not self.answered(seconds):
                self.fail(f"no answer to {line!r} in {seconds:.0f} s")
        return self.facts

    def fail(self, reason: str) -> None:
        """Ends the process for a reason."""
        self.facts["error"] = reason
        self._process.kill()

    def close(self) -> None:
        """Ends the process, which frees the device."""
        try:
            self._stdin.close()
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
        self._process.wait()

    def _say(self, line: str) -> None:
        try:
            self._stdin.write(f"{line}\n")
            self._stdin.flush()
        except OSError:  # it has ended; the listener says why
            pass

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith("REPLY "):
                self._answers.put(json.loads(line.removeprefix("REPLY ")))
        code = self._process.wait()
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        self._answers.put({"error": f"the process ended with exit code {code}: {last}"})


def compile_all(
    programs: list[Program],
    folder: pathlib.Path,
    *,
    seconds: float,
    gigabytes: float,
    at_once: int,
) -> list[Worker]:
    """A worker for every program, once all are compiled or have failed.

    They compile side by side, `at_once` of them, as long as what they may take fits `gigabytes`.
    Whoever is not ready after so many seconds is ended.
    """
    end = time.monotonic() + seconds
    workers: list[Worker] = []
    waiting, busy = list(programs), list[Worker]()
    while (waiting or busy) and time.monotonic() < end:
        busy = [worker for worker in busy if not worker.answered()]
        taken = sum(worker.program.gigabytes for worker in busy)
        taken += sum(worker.facts.get("held_gb", 0.0) for worker in workers)
        for program in list(waiting):
            fits = taken + program.gigabytes <= gigabytes or not busy
            if fits and len(busy) < at_once:
                waiting.remove(program)
                taken += program.gigabytes
                busy.append(Worker(program, folder / f"{len(workers):02d}.log"))
                workers.append(busy[-1])
        time.sleep(0.1)
    for worker in busy:
        worker.fail(f"not compiled after {seconds:.0f} s")
    for program in waiting:
        print(f"{program.name}: never started, there was no time", file=sys.stderr)
    for worker in workers:
        state = worker.facts.get("error") or f"ready after {worker.facts['ready_seconds']:.0f} s"
        print(f"{title(worker.program)}: {state}", file=sys.stderr)
    return workers


def title(program: Program) -> str:
    """Its row, kind and batch, and its name."""
    case = program.case
    return f"{case['row']} {case['kind']}:{case['batch']}, {program.name}"
