"""Prepares a data set for training: verified, as ArrayRecord, in data/NAME/1.0.0.

    python -m data.prepare ade20k --download
    python -m data.prepare cityscapes --source=/path/to/cityscapes

--source is the raw tree as MMSegmentation has it, or the folder with the downloaded archives; left
out, it is where MMSegmentation keeps the data set. TensorFlow is not needed.
"""

import argparse
import contextlib
import fcntl
import importlib
import io
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds

from data.builder import SegmentationBuilder
from nonlocal_jax.errors import UserError

DEFAULT_SOURCES = {
    "cityscapes": "data/cityscapes",
    "ade20k": "data/ade",
    "voc12aug": "data/VOCdevkit",
    "camvid": "data/camvid",
}


def prepare(
    name: str,
    source: pathlib.Path,
    output: pathlib.Path,
    *,
    download: bool = False,
    allow_incomplete: bool = False,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes OUTPUT/NAME/1.0.0, which appears only when it is whole.

    Args:
      name: cityscapes, ade20k, voc12aug or camvid.
      source: raw tree, or folder with the archives.
      output: folder of data sets.
      download: first fetch what is not in `source`.
      allow_incomplete: accept another number of images than published.
      overwrite: replace what was prepared before.

    Returns:
      the prepared folder.

    Raises:
      UserError: something is missing or damaged; nothing is left behind then.
    """
    module = importlib.import_module(f"data.{name}.{name}_dataset_builder")
    output.mkdir(parents=True, exist_ok=True)
    builder: SegmentationBuilder = module.Builder(
        data_dir=str(output), allow_incomplete=allow_incomplete
    )
    prepared = pathlib.Path(builder.data_path)
    with _alone(prepared.parent):
        if prepared.exists() and not overwrite:
            _check_prepared(builder, prepared)
            return prepared
        if download:
            _download(builder, source)
        if not source.is_dir() or not any(part.is_there(source) for part in builder.PARTS):
            raise UserError(_where_to_get(name, source))
        started = time.monotonic()
        mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS  # replaces an earlier one
        config = tfds.download.DownloadConfig(manual_dir=str(source), download_mode=mode)
        with contextlib.redirect_stdout(io.StringIO()):  # it announces a download; there is none
            builder.download_and_prepare(download_config=config)
        print(f"{prepared} is complete, in {time.monotonic() - started:.0f} s.")
    return prepared


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps a second run out, and removes what a killed one left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prepare.lock").open("w") as lock:  # the system unlocks it when we die
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another run is preparing {folder}; wait for it.") from error
        for unfinished in folder.glob("incomplete.*"):
            shutil.rmtree(unfinished)
        yield


def _check_prepared(builder: SegmentationBuilder, prepared: pathlib.Path) -> None:
    """Says that there is nothing to do; a part of the data set does not pass for the whole."""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    published = dict(builder.dataset.counts)
    if counts != published and not builder.allow_incomplete:
        raise UserError(
            f"{prepared} holds {counts}, not the published {published}: it was prepared with "
            "--allow_incomplete. Replace it with --overwrite."
        )
    print(f"{prepared} is already prepared: {counts}. Replace it with --overwrite.")


def _download(builder: SegmentationBuilder, source: pathlib.Path) -> None:
    if not all(part.url for part in builder.PARTS):
        where = _where_to_get(builder.name, source)
        raise UserError(f"{builder.name} cannot be downloaded by a program. {where}")
    for part in builder.PARTS:
        part.fetch(source)


def _where_to_get(name: str, source: pathlib.Path) -> str:
    return (
        f"{source} holds nothing of {name}. data/{name}/README.md says where to get it; then name "
        "the folder with the archives, or the one they were unpacked to, as --source=DIR."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code, 2 after an error that is the user's."""
    parser = argparse.ArgumentParser(
        "python -m data.prepare", description="Verifies a data set and writes it as ArrayRecord."
    )
    parser.add_argument("name", choices=DEFAULT_SOURCES)
    parser.add_argument("--source", help="raw tree, or folder with the downloaded archives")
    parser.add_argument("--output", default="data", help="folder of data sets (default: data)")
    parser.add_argument("--download", action="store_true", help="first fetch what is missing")
    parser.add_argument(
        "--allow_incomplete", action="store_true", help="accept fewer images than published"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    given = parser.parse_args(arguments)
    try:
        prepare(
            given.name,
            pathlib.Path(given.source or DEFAULT_SOURCES[given.name]),
            pathlib.Path(given.output),
            download=given.download,
            allow_incomplete=given.allow_incomplete,
            overwrite=given.overwrite,
        )
    except UserError as error:
        sys.stderr.write(f"data.prepare: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
