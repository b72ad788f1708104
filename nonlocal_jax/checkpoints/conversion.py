"""What conversions have in common: results are verified, and written atomically."""

import os
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nonlocal_jax.checkpoints import folder, model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.errors import UserError

BESIDE = "beside.npz"


def new_path(path: str) -> Path:
    """The path of a file or folder to be written.

    Raises:
      UserError: no path is given, or something is there already.
    """
    if not path:
        raise UserError("--output is missing: name the folder or file to write.")
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; remove it, or choose another --output.")
    return Path(path).absolute()


def check_finite(source: object, names: list[str], allow_nan: bool) -> None:
    """Refuses variables that are NaN or infinite; with `allow_nan`, warns of them.

    Args:
      source: where they are from.
      names: of those variables.
      allow_nan: whether they are accepted.

    Raises:
      UserError: there are some, and they are not accepted.
    """
    if not names:
        return
    listed = "\n  ".join(names)
    if not allow_nan:
        raise UserError(
            f"{source} has NaN or infinite values in {len(names)} variables, so its network cannot "
            "work. Values beyond the range of float32 count as infinite. --allow_nan converts it "
            f"all the same:\n  {listed}"
        )
    sys.stderr.write(f"Warning: NaN or infinite values in\n  {listed}\n")


def save_verified(
    output: Path,
    variables: Mapping[str, np.ndarray],
    metadata: Metadata,
    beside: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes the checkpoint `output`, once it has been read back and compared.

    `beside` holds arrays that are no variables of the network; `read_beside` returns them.

    Raises:
      UserError: it cannot be written, or was not kept.
    """
    unverified = output.with_name(f".{output.name}.unverified")
    try:
        shutil.rmtree(unverified, ignore_errors=True)
        model.save_model(unverified, variables, metadata)
        if beside:
            np.savez(unverified / BESIDE, **beside)  # type: ignore[arg-type]
            folder.write_digests(unverified)
            check_equal(output, beside, read_beside(unverified))
        check_equal(output, variables, model.load_model(unverified)[0])
        unverified.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(unverified, ignore_errors=True)


def check_equal(
    output: Path, given: Mapping[str, np.ndarray], read: Mapping[str, np.ndarray]
) -> None:
    """Raises a UserError if an array that was written to `output` is read back otherwise."""
    for name, value in given.items():
        other = read.get(name)
        if other is None or _contents(value) != _contents(other):
            raise UserError(f"{output} was not kept: {name} changed when it was read back.")


def _contents(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype, bytes]:
    """Compares bytes, because NaN does not equal itself and -0.0 equals 0.0."""
    return array.shape, array.dtype, array.tobytes()


def read_beside(checkpoint: Path) -> dict[str, np.ndarray]:
    """The arrays beside the variables of a checkpoint; empty if it has none.

    Raises:
      UserError: they are damaged.
    """
    path = checkpoint / BESIDE
    if not path.exists():
        return {}
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}. Restore it from a copy.") from error


def table(file: Path, digest: str, variables: Mapping[str, np.ndarray]) -> list[str]:
    """Lines of a report: the file, then arrays and numbers of each part of the network."""
    arrays: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for name, value in variables.items():
        parts = name.split("/")
        part = "/".join(parts[:2]) if parts[0] == "backbone" else parts[0]
        arrays[part] += 1
        numbers[part] += value.size
    rows = [f"  {part:<20} {arrays[part]:>6} {numbers[part]:>12,}" for part in arrays]
    return [
        f"{file} (SHA-256 {digest})",
        f"  {'part':<20} {'arrays':>6} {'numbers':>12}",
        *rows,
        f"  {'total':<20} {arrays.total():>6} {numbers.total():>12,}",
    ]
