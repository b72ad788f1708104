"""The folder of one checkpoint: its digests, its metadata, its score, and how it comes and goes.

`digests.json` holds the SHA-256 of every file: Orbax restores a flipped byte without a word, and
this is how it is noticed. The score comes later than the rest, and carries its own digest.
"""

import hashlib
import json
import pathlib
import shutil
from typing import Any

from nonlocal_jax.checkpoints import metadata
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import write_whole

DIGESTS = "digests.json"
SCORE = "score.json"
METADATA = "metadata/metadata"
# Orbax notes when it is done between our sealing of a folder and the folder's getting its name.
ORBAX_STEP, ORBAX_DONE = "_CHECKPOINT_METADATA", "commit_success.txt"
ORBAX_TIMES = ("init_timestamp_nsecs", "commit_timestamp_nsecs")


class DamagedScoreError(UserError):
    """A checkpoint's score is not what was written."""


def read_metadata(step: pathlib.Path) -> Metadata:
    """The metadata of one checkpoint's folder.

    Raises:
      UserError: it can't be read, or a newer version of this project wrote it.
    """
    try:
        text = (step / METADATA).read_bytes()
    except OSError as error:
        raise UserError(f"The checkpoint {step} has no readable metadata: {error}.") from error
    return metadata.from_json(text, step)


def refuse_newer(step: pathlib.Path) -> None:
    """Raises a UserError for what a newer version wrote; it must not pass for damaged."""
    metadata.refuse_newer(_format(step), step)


def damage(step: pathlib.Path) -> str | None:
    """What differs from when the checkpoint was written, or None."""
    try:
        digests = json.loads((step / DIGESTS).read_text())
    except FileNotFoundError:
        return f"it is not complete, {DIGESTS} is missing"
    except (OSError, ValueError, RecursionError) as error:
        return f"{DIGESTS} can't be read ({error})"
    if not isinstance(digests, dict) or METADATA not in digests:
        return f"{DIGESTS} does not hold the digests of a checkpoint"
    sealed_as_is = _format(step) < 2
    for name, expected in digests.items():
        file = step / name
        if not file.is_file():
            return f"the file {name} is missing"
        if (_digest(file) if sealed_as_is else _seal(file, name)) != expected:
            return f"the file {name} has changed since it was written"
    return None


def renamed(step: pathlib.Path) -> str | None:
    """What is wrong if a step's folder of a run has the name of another step, or None."""
    written = _tree(step).get("step")
    if written is None or str(written) == step.name:
        return None
    return f"it holds step {written}: its folder was renamed"


def write_digests(folder: pathlib.Path) -> None:
    """Seals a folder, but for the score, which may come later and change.

    Raises:
      OSError: it can't be written.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [str(file.relative_to(folder)) for file in files]
    sealed = [name for name in names if name not in (DIGESTS, SCORE, ORBAX_DONE)]
    digests = {name: _seal(folder / name, name) for name in sealed}
    write_whole(folder / DIGESTS, json.dumps(digests, indent=1))


def score(folder: pathlib.Path) -> float | None:
    """The mIoU of a step's folder, or None if it is not known.

    Raises:
      DamagedScoreError: it is not what was written.
    """
    try:
        held = json.loads((folder / SCORE).read_text())
        miou = float(held["miou"])
        whole = held.get("seal") == _score_seal(folder, miou) or _format(folder) < 2
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise DamagedScoreError(
            f"{folder / SCORE} is damaged, so the mIoU of that checkpoint is not known. Remove the "
            "file, or restore it from a copy."
        )
    return miou


def write_score(folder: pathlib.Path, miou: float) -> None:
    """Notes the mIoU of a step's folder that is sealed.

    Raises:
      OSError: it can't be written.
    """
    held = {"miou": miou, "seal": _score_seal(folder, miou)}
    write_whole(folder / SCORE, json.dumps(held))


def steps(directory: pathlib.Path) -> list[int]:
    """Steps that have a folder, newest first."""
    if not directory.is_dir():
        return []
    found = (p.name for p in directory.iterdir())
    return sorted((int(n) for n in found if n.isdecimal() and str(int(n)) == n), reverse=True)


def remove(folder: pathlib.Path) -> None:
    """Removes a folder, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def unwritable(folder: pathlib.Path, error: BaseException) -> UserError:
    """What to tell of a checkpoint that could not be written."""
    return UserError(
        f"Cannot write the checkpoint {folder}: {reason(error)}. Make room, or choose another "
        "place; what was written before is whole."
    )


def reason(error: BaseException) -> str:
    """What went wrong in a line; libraries add the places in their own code."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0].partition(" [source")[0].rstrip(". ") or type(error).__name__


def _tree(step: pathlib.Path) -> dict[str, Any]:
    """The metadata as it stands; empty if it can't be read."""
    try:
        tree = json.loads((step / METADATA).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _format(step: pathlib.Path) -> int:
    """The format that a checkpoint was written in, or that of today if it can't be read."""
    found = _tree(step).get("format", metadata.FORMAT)
    return found if isinstance(found, int) else metadata.FORMAT


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(file: pathlib.Path, name: str) -> str:
    """A file's digest; of the one that Orbax still changes, that of what it leaves alone."""
    if name != ORBAX_STEP:
        return _digest(file)
    try:
        tree = json.loads(file.read_bytes())
        kept = {key: value for key, value in tree.items() if key not in ORBAX_TIMES}
    except (ValueError, AttributeError, RecursionError):
        return "unreadable"
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _score_seal(folder: pathlib.Path, miou: float) -> str:
    """Holds for this score of this checkpoint alone."""
    return hashlib.sha256(f"{miou!r} {_digest(folder / DIGESTS)}".encode()).hexdigest()
