"""From a function to a compiled program: by the compiler, or from what an earlier run has kept.

JAX keeps compiled programs, too, but finds them by the traced program, so that a second start
traces again: on a CPU that takes as long as reading what was compiled. Here the same config,
source code, packages, settings and devices find a program at once; whatever else changes, JAX's
own cache is next.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import pickle
import platform
import time
import zlib
from collections.abc import Callable

import jax
from jax.experimental import serialize_executable

PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")
COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # environment variables
WORTH_KEEPING = 1.0  # seconds of compiling; JAX's cache leaves out what takes less, too
_LOG = logging.getLogger(__package__)
_folder: pathlib.Path | None = None


def compiler_options(platform: str) -> dict[str, str | bool] | None:
    """What programs are compiled with on a platform.

    XLA's CPU compiler orders operations so that several may run at once, in up to twice the memory;
    each of these fills all cores by itself.
    """
    if platform != "cpu":
        return None
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def keep_programs(folder: str | None) -> None:
    """From now on, `find_or_compile` keeps programs in a folder, or with None it does not.

    This is for this package's own commands, whose code is what is in its files; a notebook, or a
    command of yours, may have replaced a function. Programs are run as they are found, as those of
    JAX's own cache: only the user should be able to write to the folder. One with a scheme, as
    gs://, is left to JAX.
    """
    global _folder
    _folder = pathlib.Path(folder) if folder and "://" not in folder else None


def find_or_compile(
    name: str, made_from: object, mesh: jax.sharding.Mesh, lower: Callable[[], jax.stages.Lowered]
) -> jax.stages.Compiled:
    """The compiled program of an earlier run, or else of `lower()`, which is kept for the next.

    What this package logged while it was traced is logged again. Several processes, which must
    agree on whether they compile, always do; JAX's cache is theirs.

    Args:
      name: of the program's file.
      made_from: all that decides about the program, beside this package, its libraries, their
        settings and the devices; something whose `repr` tells everything.
      mesh: the devices.
      lower: traces the program.
    """
    options = compiler_options(mesh.devices.flat[0].platform)
    if _folder is None or jax.process_count() > 1:
        return lower().compile(options)
    file = _folder / f"{name}-{_digest(made_from, mesh)[:32]}.program"
    surroundings = _digest(*_surroundings(mesh))
    found = _read(file, surroundings, list(mesh.devices.flat))
    if found is not None:
        return found
    start = time.perf_counter()
    with _Heard() as heard:
        compiled = lower().compile(options)
    if time.perf_counter() - start > WORTH_KEEPING:
        _write(file, surroundings, compiled, heard.lines)
    return compiled


def code_digest(folder: pathlib.Path) -> str:
    """A text that is another one after any change to the Python files below `folder`."""
    files = sorted(folder.rglob("*.py"))
    return _digest(*((str(file.relative_to(folder)), file.read_bytes()) for file in files))


def _surroundings(mesh: jax.sharding.Mesh) -> list[object]:
    """What a program depends on beside what it was made from."""
    return [
        code_digest(pathlib.Path(__file__).parent),
        [importlib.metadata.version(package) for package in PACKAGES],
        [os.environ.get(flag) for flag in COMPILER_FLAGS],
        sorted(jax.config.values.items()),
        [(device.id, device.device_kind) for device in mesh.devices.flat],
        mesh.devices.flat[0].client.platform_version,
        platform.machine(),
        _processor_features(),
    ]


def _processor_features() -> str:
    """What a CPU can do, and a program that was compiled for it may need; "" where unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read(
    file: pathlib.Path, surroundings: str, devices: list[jax.Device]
) -> jax.stages.Compiled | None:
    """The program in `file`, if there is one that was made in the same surroundings."""
    try:
        made_in, _, content = file.read_bytes().partition(b"\n")
        if made_in != surroundings.encode():
            return None
        lines, (program, inputs, outputs) = pickle.loads(zlib.decompress(content))
        compiled = serialize_executable.deserialize_and_load(
            program, inputs, outputs, execution_devices=devices
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file may raise anything
        _LOG.warning("%s can't be used, and is compiled again: %s", file, error)
        return None
    for line in lines:
        _LOG.info("%s", line)
    return compiled


def _write(
    file: pathlib.Path, surroundings: str, compiled: jax.stages.Compiled, lines: list[str]
) -> None:
    """Replaces `file` as a whole, or leaves it."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        program = serialize_executable.serialize(compiled)
        content = zlib.compress(pickle.dumps((lines, program)), level=1)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(surroundings.encode() + b"\n" + content)
        partial.replace(file)
    except Exception as error:  # whatever it is, the run goes on without
        _LOG.warning("%s can't be written, and the next start traces again: %s", file, error)
        with contextlib.suppress(OSError):
            partial.unlink()


class _Heard(logging.Handler):
    """Collects what this package logs, in `lines`."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> "_Heard":
        _LOG.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _LOG.removeHandler(self)
