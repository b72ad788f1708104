"""Which files of a folder belong to a data set; one rule for whoever lists files."""

import os
import pathlib
from collections.abc import Iterator

from nonlocal_jax.errors import UserError


def files_below(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[str]:
    """Relative paths of the files below a folder, sorted as plain strings (upper case first).

    What begins with a dot is left out, and so is what is no file, such as a pipe or a device.
    Links are followed, but not into a folder that the link itself lies in.

    Args:
      folder: where to look, in its subfolders, too.
      suffixes: of the files, in lower case; a file's own may be in upper case.

    Raises:
      UserError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    try:
        return sorted(_walk(folder, "", suffixes, ()))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _walk(
    folder: pathlib.Path, prefix: str, suffixes: tuple[str, ...], above: tuple[os.stat_result, ...]
) -> Iterator[str]:
    """`above` are the folders that this one lies in, as it was reached."""
    here = folder.stat()
    if any(os.path.samestat(here, other) for other in above):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below = (*above, here)
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", suffixes, below)
            elif entry.name.lower().endswith(suffixes) and entry.is_file():
                yield prefix + entry.name
