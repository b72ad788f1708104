"""Writing a file atomically (a reader sees the old content or the new), and the cache folder."""

import contextlib
import json
import os
import pathlib
import tempfile

from nonlocal_jax.errors import UserError


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replaces the file at `path` atomically, and creates its folder.

    If the content can't be written, the old file stays as it is.

    Raises:
      OSError: the file can't be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Writes a value as JSON, atomically.

    Raises:
      UserError: the file can't be written.
    """
    try:
        write_whole(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}.") from error


def check_folder(folder: pathlib.Path) -> None:
    """Creates the folder of results before anything is computed.

    Raises:
      UserError: nothing can be written there.
    """
    probe = folder / ".writable"
    try:
        write_whole(probe, "")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error


def check_file(path: str | os.PathLike[str]) -> None:
    """Creates the folder of a file of results before anything is computed.

    Raises:
      UserError: the file can't be written.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"{path} can't be written: it is a folder.")
    check_folder(path.parent)


def cache_folder() -> pathlib.Path:
    """The folder of this project's caches: $XDG_CACHE_HOME/nonlocal_jax.

    Without that variable it is ~/.cache/nonlocal_jax, and without a home a temporary folder.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return pathlib.Path(root) / "nonlocal_jax"
    home = os.path.expanduser("~")
    if home == "~":  # neither $HOME nor an entry for this user
        return pathlib.Path(tempfile.gettempdir()) / f"nonlocal_jax-{os.getuid()}"
    return pathlib.Path(home) / ".cache" / "nonlocal_jax"
