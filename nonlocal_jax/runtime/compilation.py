"""How programs are compiled, and where the compiled ones are kept.

JAX keeps compiled programs in a folder and finds them by the traced program, so that what is found
is always what would have been compiled.
"""

import os
import pathlib

import jax


def compiler_options(platform: str) -> dict[str, str | bool] | None:
    """What programs are compiled with on a platform.

    XLA's CPU compiler orders operations so that several may run at once, in up to twice the memory;
    each of these fills all cores by itself.
    """
    if platform != "cpu":
        return None
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def cache_folder() -> pathlib.Path:
    """Where this project keeps what is costly to make again: $XDG_CACHE_HOME/nonlocal_jax."""
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return pathlib.Path(root) / "nonlocal_jax"
    return pathlib.Path(os.path.expanduser("~")) / ".cache" / "nonlocal_jax"


def use_cache() -> None:
    """Lets JAX keep compiled programs, in $JAX_COMPILATION_CACHE_DIR or the cache folder."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
