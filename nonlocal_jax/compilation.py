"""From a function to a compiled program: by the compiler, or from what an earlier run has kept.

JAX keeps compiled programs, too, but finds them by the traced program, so that a second start
traces again: on a CPU that takes as long as reading what was compiled. Here the same config,
source code, packages, settings and devices name the program at once, in a small file, its recipe;
if there is none, the traced program finds it, and gets one more recipe.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import pickle
import platform
import time
import zlib
from collections.abc import Callable, Iterator

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax")
COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # environment variables
WORTH_KEEPING = 1.0  # seconds of compiling; JAX's cache leaves out what takes less, too
_LOG = logging.getLogger(__package__)
_folder: pathlib.Path | None = None


def compiler_options(platform: str, name: str = "") -> dict[str, str | bool] | None:
    """What programs are compiled with on a platform; `name` is that of `find_or_compile`.

    XLA's CPU compiler orders operations so that several may run at once, in up to twice the memory;
    each of these fills all cores by itself. On a GPU, cuBLAS computes a train step's products. With
    XLA's own, by Triton, the step takes 2% longer, and nine times as much time to compile.
    """
    if platform == "cpu":
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if platform == "gpu" and name == "train_step":
        return {"xla_gpu_enable_triton_gemm": False}
    return None


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
    agree on whether they compile, leave all of it to JAX's cache.

    Args:
      name: of the program's files.
      made_from: all that decides about the program, beside this package, its libraries, their
        settings and the devices; something whose `repr` tells everything.
      mesh: the devices.
      lower: traces the program.
    """
    options = compiler_options(mesh.devices.flat[0].platform, name)
    if _folder is None or jax.process_count() > 1:
        return lower().compile(options)
    settings = _settings(mesh)
    code = code_digest(pathlib.Path(__file__).parent)
    recipe = _folder / f"{name}-{_digest(made_from, code, settings)}.json"
    compiled = _follow(recipe, mesh)
    if compiled is not None:
        return compiled
    with _Heard() as heard:
        lowered = lower()
    program = _digest(lowered.as_text(), lowered.in_tree, lowered.out_tree, settings)
    file = _folder / f"{name}-{program}.program"
    compiled = _read(file, mesh)
    if compiled is None:
        start = time.perf_counter()
        with _without_jaxs_cache():
            compiled = lowered.compile(options)
        if time.perf_counter() - start < WORTH_KEEPING:
            return compiled
        _write(file, lambda: _to_bytes(compiled))
    _write(recipe, lambda: json.dumps([file.name, heard.lines]).encode())
    return compiled


def code_digest(folder: pathlib.Path) -> str:
    """A text that is another one after any change to the Python files below `folder`."""
    files = sorted(folder.rglob("*.py"))
    return _digest(*((str(file.relative_to(folder)), file.read_bytes()) for file in files))


def _settings(mesh: jax.sharding.Mesh) -> str:
    """What a program depends on beside what it was made from, in one text."""
    return _digest(
        [importlib.metadata.version(package) for package in PACKAGES],
        [os.environ.get(flag) for flag in COMPILER_FLAGS],
        sorted(jax.config.values.items()),
        mesh,
        [(device.id, device.device_kind) for device in mesh.devices.flat],
        mesh.devices.flat[0].client.platform_version,
        platform.machine(),
        _processor_features(),
    )


def _processor_features() -> str:
    """What a CPU can do, and a program that was compiled for it may need; "" where unknown."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return ""


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _follow(recipe: pathlib.Path, mesh: jax.sharding.Mesh) -> jax.stages.Compiled | None:
    """The program that a recipe names, if both are there."""
    try:
        program, lines = json.loads(recipe.read_text())
    except (OSError, ValueError):  # none, or a damaged one: it is written anew
        return None
    compiled = _read(recipe.with_name(program), mesh)
    for line in lines if compiled else ():
        _LOG.info("%s", line)
    return compiled


def _read(file: pathlib.Path, mesh: jax.sharding.Mesh) -> jax.stages.Compiled | None:
    """The program in a file, if there is one."""
    try:
        program, inputs, outputs = pickle.loads(zlib.decompress(file.read_bytes()))
        return serialize_executable.deserialize_and_load(
            program, inputs, outputs, execution_devices=list(mesh.devices.flat)
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file may raise anything
        _LOG.warning("%s can't be used, and is compiled again: %s", file, error)
        return None


def _to_bytes(compiled: jax.stages.Compiled) -> bytes:
    return zlib.compress(pickle.dumps(serialize_executable.serialize(compiled)), level=1)


def _write(file: pathlib.Path, content: Callable[[], bytes]) -> None:
    """Replaces `file` as a whole, or leaves it."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content())
        partial.replace(file)
    except Exception as error:  # whatever it is, the run goes on without
        _LOG.warning("%s can't be written, and is made again next time: %s", file, error)
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def _without_jaxs_cache() -> Iterator[None]:
    """Compiles in any case: what XLA has read, it would write without a CPU's machine code."""
    name = "jax_enable_compilation_cache"
    before = jax.config.values[name]
    jax.config.update(name, False)
    compilation_cache.reset_cache()  # JAX looks at the setting only once
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()


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
