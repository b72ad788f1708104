"""How programs are compiled, and where the compiled ones are kept.

JAX keeps compiled programs in a folder and finds them by the traced program, so that what is found
is always what would have been compiled.
"""

import os
import pathlib

import jax

from nonlocal_jax.errors import UserError


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
    """Lets JAX keep compiled programs, in $JAX_COMPILATION_CACHE_DIR or the cache folder.

    Programs are run as they are found, so nobody else may be able to write to the folder.

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
    """Whether the folder is there and this user alone may write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _open_to_others(folder):
            folder.chmod(0o700)
        return not _open_to_others(folder)
    except OSError:  # there is no home, or it can't be written: programs are compiled each time
        return False


def _open_to_others(folder: pathlib.Path) -> str:
    """Who else may write to a folder, in words; empty if nobody or if it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return ""
    if status.st_uid not in (os.getuid(), 0):
        return "it belongs to another user"
    return "other users may write to it" if status.st_mode & 0o022 else ""
