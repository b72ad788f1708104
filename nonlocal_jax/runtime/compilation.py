"""Options of XLA's compiler, and the folder of JAX's cache of compiled programs.

The cache is keyed by the traced program, so a program from the cache is the one that would have
been compiled.
"""

import os
import pathlib

import jax
from absl import logging

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import cache_folder

Options = dict[str, str | bool]
CONVOLUTIONS_IN_GRAPHS = "xla_gpu_experimental_enable_conv_fusion"
# Earlier versions of XLA leave bias, shortcut and ReLU out of such convolutions.
SINCE_JAX = (0, 11)


def compiler_options(platform: str, *, training: bool = False) -> Options | None:
    """The compiler options for a platform. On a GPU, an option that $XLA_FLAGS sets is left out.

    By default, XLA's CPU compiler lets several operations run at once, which takes up to twice the
    memory. Each operation of these networks uses all cores by itself.

    In training on a GPU, cuBLAS computes the products. With XLA's own, by Triton, a step is 2%
    slower, and compiling it takes nine times as much CPU time. Two products of the same array stay
    apart. By default XLA computes them as one, which copies their results and their gradients.
    """
    if platform == "cpu":
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if platform != "gpu" or not training:
        return None
    options: Options = {
        "xla_gpu_enable_triton_gemm": False,
        "xla_gpu_dot_merger_threshold_mb": "0",
    }
    return {name: value for name, value in options.items() if not _named_by_user(name)}


def compile_inference(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Compiles a program that applies a network to images.

    On a GPU, convolutions become fusions that a CUDA graph can hold. So the whole program is
    launched at once, and one image takes 1.19 ms instead of 1.47. XLA calls the option
    experimental. It is used at the default precision alone, and left out where compiling fails.
    """
    if platform == "gpu" and _can_use_graphs():
        try:
            return lowered.compile({CONVOLUTIONS_IN_GRAPHS: True})
        except jax.errors.JaxRuntimeError as error:
            logging.warning("Convolutions are launched one by one: %s", str(error).split("\n")[0])
    return lowered.compile(compiler_options(platform))


def _can_use_graphs() -> bool:
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    new = jax.__version_info__ >= SINCE_JAX
    return new and precision in (None, "default") and not _named_by_user(CONVOLUTIONS_IN_GRAPHS)


def _named_by_user(option: str) -> bool:
    flags = os.environ.get("XLA_FLAGS", "").split()
    return f"--{option}" in (flag.partition("=")[0] for flag in flags)


def use_cache() -> None:
    """Sets JAX's cache of compiled programs: $JAX_COMPILATION_CACHE_DIR, or the cache folder.

    Programs in the cache are executed, so no other user may be able to write to the folder.

    Raises:
      UserError: others may write to $JAX_COMPILATION_CACHE_DIR.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if named is None:
        folder = cache_folder() / "compiled"
        if _make_private(folder):
            jax.config.update("jax_compilation_cache_dir", str(folder))
    elif named and "://" not in named and (problem := _open_to_others(pathlib.Path(named))):
        raise UserError(
            f"JAX_COMPILATION_CACHE_DIR is {named}, and {problem}. Programs are run as they are "
            f"found there: take that right away (chmod go-w {named}), or name another folder."
        )


def _make_private(folder: pathlib.Path) -> bool:
    """Creates the folder. Returns whether only this user may write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _open_to_others(folder):
            folder.chmod(0o700)
        return not _open_to_others(folder)
    except OSError:  # no home folder, or not writable: programs are compiled each time
        return False


def _open_to_others(folder: pathlib.Path) -> str:
    """A sentence on who else may write to a folder; empty if nobody, or if there is no folder."""
    try:
        status = folder.stat()
    except OSError:
        return ""
    if status.st_uid not in (os.getuid(), 0):
        return "it belongs to another user"
    return "other users may write to it" if status.st_mode & 0o022 else ""
