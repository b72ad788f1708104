"""What a run tells: lines in the terminal, metrics.jsonl, and TensorBoard where it is installed."""

import contextlib
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

import jax

from nonlocal_jax.errors import UserError

TENSORBOARD = ("tensorflow", "tensorboard")  # what clu writes event files with
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class RunLog:
    """Writes scalars of a run by step; only the first process writes.

    Args:
      workdir: of the run.
      start: the step it goes on from; metrics.jsonl loses what was written of later ones.
      evaluated: whether the scores of `start` are final; else it loses them, too.

    Raises:
      UserError: from here and from `write`, if the files can't be written.
    """

    def __init__(self, workdir: pathlib.Path, start: int = 0, *, evaluated: bool = True):
        self._file = None
        self._tensorboard = None
        if jax.process_index() > 0:
            return
        self._name = workdir / "metrics.jsonl"
        with self._explained():
            self._file = _reopen(self._name, start, evaluated)
        missing = [name for name in TENSORBOARD if importlib.util.find_spec(name) is None]
        if missing:
            say(
                f"No TensorBoard files, only metrics.jsonl: {' and '.join(missing)} not installed "
                "(pip install -e '.[tensorboard]')."
            )
        else:
            from clu import metric_writers

            self._tensorboard = metric_writers.SummaryWriter(str(workdir))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of a step to every file."""
        if self._file is not None:
            with self._explained():
                self._file.write(json.dumps({"step": step, **scalars}) + "\n")
                self._file.flush()
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, dict(scalars))

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a line that could not be written is told already
                self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"Cannot write {self._name}: {error.strerror}. Make room, or choose another "
                "--workdir; the checkpoints are whole."
            ) from error


def _reopen(file: pathlib.Path, start: int, evaluated: bool) -> TextIO:
    """A JSON Lines file without what it says of steps after `start`, to append to."""
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    parsed = [(line, _parse(line)) for line in lines if line.endswith(b"\n")]
    if any(content is None for _, content in parsed):
        aside = file.with_suffix(".damaged")
        aside.write_bytes(b"".join(lines))
        say(f"{file} has lines that can't be read; they are in {aside.name} alone from now on.")
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_bytes(b"".join(line for line, c in parsed if _stays(c, start, evaluated)))
    unfinished.rename(file)
    return file.open("a")


def _parse(line: bytes) -> dict[str, float] | None:
    try:
        content = json.loads(line)
        return {**content, "step": int(content["step"])}
    except (ValueError, TypeError, KeyError):
        return None


def _stays(content: dict[str, float] | None, start: int, evaluated: bool) -> bool:
    if content is None or content["step"] > start:
        return False
    return evaluated or content["step"] < start or "miou" not in content


def say(message: str) -> None:
    """A line in the terminal, from the first process alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


@contextlib.contextmanager
def working(what: str, *, every: float = 15.0) -> Iterator[None]:
    """Says what starts, that it goes on every few seconds, and how long it took."""
    start = time.perf_counter()
    done = threading.Event()
    say(f"{what} ...")

    def tick() -> None:
        while not done.wait(every):
            say(f"{what} ... {time.perf_counter() - start:.0f} s so far")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    say(f"{what}: {time.perf_counter() - start:.1f} s")


class Rate:
    """Images a second since the last reading, and the time that the rest will take."""

    def __init__(self, total_steps: int, batch_size: int):
        self._total, self._batch = total_steps, batch_size
        self._step, self._start = 0, time.perf_counter()

    def restart(self, step: int) -> None:
        """Starts measuring at `step`."""
        self._step, self._start = step, time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out what happens inside, evaluation for one."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def read(self, step: int) -> tuple[float, str]:
        """Images a second since the last reading, and "h:mm:ss" to the last step."""
        seconds = time.perf_counter() - self._start
        per_step = seconds / max(step - self._step, 1)
        self.restart(step)
        return self._batch / per_step, clock(per_step * (self._total - step))


def clock(seconds: float) -> str:
    """Seconds as "h:mm:ss"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def environment() -> dict[str, object]:
    """What ran where: versions, devices, command, and the commit where there is one."""
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    device = jax.devices()[0]
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processes": jax.process_count(),
        "host": platform.node(),
        "commit": revision or "unknown",
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
