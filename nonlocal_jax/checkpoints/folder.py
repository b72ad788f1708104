"""The folder of one checkpoint: its digests, its metadata, its score, and how it comes and goes.

`digests.json` holds the SHA-256 of every file: Orbax restores a flipped byte without a word, and
this is how it is noticed.
"""

import glob
import hashlib
import json
import pathlib
import shutil
from typing import Any

from nonlocal_jax.errors import UserError

FORMAT = 1
DIGESTS = "digests.json"
SCORE = "score.json"
METADATA = "metadata/metadata"


def read_metadata(step: pathlib.Path) -> dict[str, Any]:
    """The metadata of one checkpoint's folder.

    Raises:
      UserError: it can't be read, or a newer version of this project wrote it.
    """
    try:
        metadata = json.loads((step / METADATA).read_text())
        version = int(metadata.get("format", 0))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"The checkpoint {step} has no readable metadata: {error}.") from error
    if version > FORMAT:
        raise UserError(
            f"The checkpoint {step} has format {version}, and this version reads up to "
            f"{FORMAT}: update nonlocal_jax."
        )
    return metadata


def refuse_newer(step: pathlib.Path) -> None:
    """Raises a UserError for what a newer version wrote; it must not pass for damaged."""
    try:
        read_metadata(step)
    except UserError as error:
        if error.__cause__ is None:
            raise


def damage(step: pathlib.Path) -> str | None:
    """What differs from when the checkpoint was written, or None."""
    try:
        digests = json.loads((step / DIGESTS).read_text())
    except FileNotFoundError:
        return f"it is not complete, {DIGESTS} is missing"
    except (OSError, ValueError) as error:
        return f"{DIGESTS} can't be read ({error})"
    if not isinstance(digests, dict) or METADATA not in digests:
        return f"{DIGESTS} does not hold the digests of a checkpoint"
    for name, expected in digests.items():
        file = step / name
        if not file.is_file():
            return f"the file {name} is missing"
        if _digest(file) != expected:
            return f"the file {name} has changed since it was written"
    return None


def write_digests(folder: pathlib.Path) -> None:
    """Seals a folder, but for the score, which may come later and change."""
    unsealed = (DIGESTS, SCORE)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in unsealed)
    digests = {str(file.relative_to(folder)): _digest(file) for file in files}
    _write(folder / DIGESTS, json.dumps(digests, indent=1))


def _write(file: pathlib.Path, text: str) -> None:
    """Writes a file all at once."""
    unfinished = file.with_name(f".{file.name}")
    unfinished.write_text(text)
    unfinished.rename(file)


def score(folder: pathlib.Path) -> float | None:
    """The mIoU of a step's folder, or None if it is not known."""
    try:
        return float(json.loads((folder / SCORE).read_text())["miou"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_score(folder: pathlib.Path, miou: float) -> None:
    """Notes the mIoU of a step's folder."""
    _write(folder / SCORE, json.dumps({"miou": miou}))


def steps(directory: pathlib.Path) -> list[int]:
    """Steps that have a folder, newest first."""
    if not directory.is_dir():
        return []
    return sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)


def remove(folder: pathlib.Path) -> None:
    """Removes a folder, and what Orbax writes before it has that name."""
    for path in folder.parent.glob(f"{glob.escape(folder.name)}*"):
        shutil.rmtree(path, ignore_errors=True)


def unwritable(folder: pathlib.Path, error: Exception) -> UserError:
    """What to tell of a checkpoint that could not be written."""
    return UserError(
        f"Cannot write the checkpoint {folder}: {reason(error)}. Make room, or choose another "
        "place; what was written before is whole."
    )


def reason(error: Exception) -> str:
    """What went wrong in a line; libraries add the places in their own code."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0].partition(" [source")[0].rstrip(". ") or type(error).__name__


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
