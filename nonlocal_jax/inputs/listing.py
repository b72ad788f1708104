"""Which files of a folder belong to a data set; one rule for whoever lists files."""

import functools
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from absl import logging

from nonlocal_jax.errors import UserError

FolderId = tuple[int, int]
"""Device and inode."""


class Listing(NamedTuple):
    """The files below a folder.

    Attributes:
      files: relative paths, sorted as plain strings (upper case first).
      left_out: how many entries are not used: hidden ones, files of other kinds, and folders that a
        link has led to before.
    """

    files: list[str]
    left_out: int


def files_below(folder: pathlib.Path, suffixes: tuple[str, ...]) -> Listing:
    """Lists the files below a folder.

    What begins with a dot is left out, and so is what is no file, such as a pipe or a device. Links
    are followed. A folder that can be reached in several ways is used once, at its own place rather
    than at a link's.

    Args:
      folder: where to look, in its subfolders, too.
      suffixes: of the files, in lower case; a file's own may be in upper case.

    Raises:
      UserError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    files, left_out = [], 0
    try:
        for name in _entries(folder):
            path = folder / name
            hidden = path.name.startswith(".")
            if hidden or not path.name.lower().endswith(suffixes) or not path.is_file():
                left_out += 1
            else:
                files.append(name)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return Listing(sorted(files), left_out)


@functools.cache
def tell_left_out(folder: pathlib.Path, count: int) -> None:
    """Logs how many entries of a folder are not used, once."""
    if count:
        logging.warning(
            "Not used below %s: %d that are hidden, no image, or links to folders in use already.",
            folder,
            count,
        )


def _entries(top: pathlib.Path) -> Iterator[str]:
    """Relative paths of all entries that are not searched: files, and folders that are left out.

    Folders are searched level by level, and links to folders when nothing else is left. So a
    folder is found at its own place first.
    """
    seen: set[FolderId] = set()
    folders, links = [""], list[str]()
    while folders or links:
        prefix = folders.pop(0) if folders else links.pop(0)
        here = _id_of(top / prefix)
        if here in seen:
            yield prefix.removesuffix("/")
            continue
        seen.add(here)
        with os.scandir(top / prefix) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                name = prefix + entry.name
                if entry.name.startswith(".") or not _is_folder(entry):
                    yield name
                elif entry.is_symlink():
                    links.append(f"{name}/")
                else:
                    folders.append(f"{name}/")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _id_of(folder: pathlib.Path) -> FolderId:
    status = folder.stat()
    return status.st_dev, status.st_ino
