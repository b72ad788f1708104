"""Prepares a data set for training: verified, as ArrayRecord, in OUTPUT/NAME/VERSION."""

import contextlib
import fcntl
import io
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.preparation import builders
from nonlocal_jax.inputs.preparation.parts import Fetch
from nonlocal_jax.inputs.preparation.records import RecordsBuilder


class Prepared(NamedTuple):
    """A prepared data set.

    Attributes:
      folder: where it is.
      counts: examples by split.
      is_new: whether it was made now; else it was there already.
    """

    folder: pathlib.Path
    counts: dict[str, int]
    is_new: bool


def prepare(
    name: str,
    source: pathlib.Path | None,
    output: pathlib.Path,
    *,
    fetch: Fetch | None = None,
    allow_incomplete: bool = False,
    overwrite: bool = False,
) -> Prepared:
    """Writes OUTPUT/NAME/VERSION, which appears only when it is whole.

    Args:
      name: one of `builders.names()`.
      source: the raw tree, or the folder with the archives; None for MMSegmentation's folder.
      output: folder of data sets.
      fetch: downloads what is not in `source`; None to download nothing.
      allow_incomplete: accept another number of images than published.
      overwrite: replace what was prepared before.

    Raises:
      UserError: something is missing or damaged; nothing is left behind then.
    """
    builder_class = builders.load(name)
    source = pathlib.Path(builder_class.USUAL_SOURCE) if source is None else source
    builder = builder_class(data_dir=str(output), allow_incomplete=allow_incomplete)
    folder = pathlib.Path(builder.data_path)
    if overwrite or not folder.exists():
        _check_source(builder, source, downloads=fetch is not None)
    with _alone(folder.parent):
        if folder.exists() and not overwrite:
            _check_whole(builder, folder)
            return Prepared(folder, _counts(builder), is_new=False)
        if fetch is not None:
            for part in builder.PARTS:
                part.download(source, fetch)
        mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS  # replaces an earlier one
        config = tfds.download.DownloadConfig(manual_dir=str(source), download_mode=mode)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
            builder.download_and_prepare(download_config=config)
    return Prepared(folder, _counts(builder), is_new=True)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder against a second run, and removes what a killed run left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prepare.lock").open("w") as lock:  # unlocked when the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another run is preparing {folder}; wait for it.") from error
        for unfinished in folder.glob("incomplete.*"):
            shutil.rmtree(unfinished)
        yield


def _counts(builder: RecordsBuilder[Any]) -> dict[str, int]:
    return {split: info.num_examples for split, info in builder.info.splits.items()}


def _check_whole(builder: RecordsBuilder[Any], folder: pathlib.Path) -> None:
    """Raises a UserError if a part of the data set was prepared, and that is not allowed."""
    counts, published = _counts(builder), dict(builder.dataset.counts)
    if counts != published and not builder.allow_incomplete:
        raise UserError(
            f"{folder} holds {counts}, not the published {published}: it was prepared with "
            "--allow_incomplete. Replace it with --overwrite."
        )


def _check_source(builder: RecordsBuilder[Any], source: pathlib.Path, downloads: bool) -> None:
    """Raises a UserError if there is nothing to prepare, and nothing that could be downloaded."""
    if downloads and not (builder.PARTS and all(part.url for part in builder.PARTS)):
        where = _where_to_get(builder)
        raise UserError(f"{builder.name} cannot be downloaded by a program. {where}")
    if not downloads and not builder.is_there(source):
        raise UserError(f"{source} holds nothing of {builder.name}. {_where_to_get(builder)}")


def _where_to_get(builder: RecordsBuilder[Any]) -> str:
    instructions = " ".join(str(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).split())
    return (
        f"{instructions} Then name the folder with what was downloaded, or the one that it was "
        "unpacked to, as --source=DIR."
    )
