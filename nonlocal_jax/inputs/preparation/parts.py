"""The parts of a data set: finding, unpacking and downloading them."""

import dataclasses
import gzip
import hashlib
import pathlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import tqdm

from nonlocal_jax.errors import UserError

Fetch = Callable[[str, pathlib.Path], pathlib.Path]
"""Downloads an address to a folder, resumes an earlier attempt, and returns the file's path."""

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


@dataclasses.dataclass(frozen=True)
class Part:
    """A folder that belongs to a data set, and the archive that it is published in.

    Attributes:
      places: usual places of the folder, relative to --source. An archive is unpacked to the first.
      holds: a folder inside it, so that no other folder is taken for this one.
      archive: name of the published file.
      inside: the folder's path in that archive.
      url: where it can be downloaded without asking; empty where a licence must be accepted first.
      digest: of the published archive, as in "md5:0123".
    """

    places: tuple[str, ...]
    holds: str
    archive: str
    inside: str
    url: str = ""
    digest: str = ""

    def find(self, source: pathlib.Path) -> pathlib.Path | None:
        """The folder, or None where `source` has no such folder."""
        for place in self.places:
            if (source / place / self.holds).is_dir():
                return source / place
        return None

    def is_there(self, source: pathlib.Path) -> bool:
        """Whether `source` holds the folder or the archive."""
        return self.find(source) is not None or (source / self.archive).is_file()

    def locate(self, source: pathlib.Path) -> pathlib.Path:
        """The folder, unpacked from the archive if only that is there.

        Raises:
          UserError: neither is in `source`, or the archive cannot be unpacked.
        """
        found = self.find(source)
        if found is not None:
            return found
        archive = source / self.archive
        if archive.is_file():
            unpack(archive, self.inside, source / self.places[0])
            return self.locate(source)
        folders = " or ".join(f"{place}/{self.holds}".removeprefix("./") for place in self.places)
        there = ", ".join(sorted(path.name for path in source.iterdir())[:10]) or "nothing"
        raise UserError(
            f"{source} has neither a folder {folders} nor the archive {self.archive}. "
            f"It holds: {there}."
        )

    def download(self, source: pathlib.Path, fetch: Fetch) -> None:
        """Downloads the archive to `source`, unless it or the folder is there already.

        Raises:
          UserError: the server cannot be reached, or sent another file than the published one.
        """
        if self.is_there(source):
            return
        fresh = fetch(self.url, source / ".unchecked")
        algorithm, _, expected = self.digest.partition(":")
        with fresh.open("rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
        if actual != expected:
            fresh.unlink()
            raise UserError(
                f"{self.url} sent a file whose {algorithm} is {actual}, published is {expected}. "
                "It was deleted; run the command again."
            )
        fresh.rename(source / self.archive)
        fresh.parent.rmdir()


def unpack(archive: pathlib.Path, inside: str, destination: pathlib.Path) -> None:
    """Unpacks one folder of a zip or tar file; `destination` appears only when it is whole.

    Raises:
      UserError: the archive is damaged or another one, or `destination` cannot be written.
    """
    unfinished = destination.parent / f".unpacking-{destination.name}"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
        count = 0
        for name, content in tqdm.tqdm(_members(archive), f"unpacking {archive.name}", unit="file"):
            path = pathlib.PurePosixPath(name)
            if ".." in path.parts or not path.is_relative_to(inside):
                continue
            target = unfinished / path.relative_to(inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file)
            count += 1
        if count == 0:
            raise UserError(f"{archive} has no folder {inside}: it is another archive.")
        unfinished.rename(destination)
    except DAMAGED as error:
        raise UserError(
            f"{archive} is damaged or was not downloaded whole ({error}). Delete it and download "
            "it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"Cannot unpack {archive} into {destination.parent}: {error}. The folder must be "
            "writable and have room; otherwise unpack it elsewhere and name that as --source."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _members(archive: pathlib.Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file of a zip or tar file, in the order stored."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    with opened.open(info) as content:
                        yield info.filename, content
    else:
        with tarfile.open(archive) as opened_tar:
            for member in opened_tar:
                content_or_none = opened_tar.extractfile(member)
                if content_or_none is not None:
                    yield member.name, content_or_none
