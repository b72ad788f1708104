"""The folder of one checkpoint: digests, metadata and score.

`digests.json` holds the SHA-256 of every file, because Orbax restores damaged bytes without an
error. The score is written later than the rest, and has its own digest.
"""

import hashlib
import json
import pathlib
import re
import shutil
import time
from typing import Any

from nonlocal_jax.checkpoints import metadata
from nonlocal_jax.checkpoints.hub import files as hub
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import write_whole

DIGESTS = "digests.json"
SCORE = "score.json"
MIOU = "miou"  # the metric that a score is of unless it says otherwise
METADATA = "metadata/metadata"
MODEL, AVERAGE = "model", "average"  # the variables, and their average if the run keeps one
# Orbax changes this file after the digests are written, before the folder gets its name.
ORBAX_STEP, ORBAX_DONE = "_CHECKPOINT_METADATA", "commit_success.txt"
ORBAX_TIMES = ("init_timestamp_nsecs", "commit_timestamp_nsecs")
OS_ERROR = re.compile(r"\[OS error \d+: (?:E[A-Z0-9]+ )?([^\[\]]+)\]")
REMOVALS = 20  # attempts to remove a folder, a tenth of a second apart


class DamagedScoreError(UserError):
    """The score of a checkpoint is damaged."""


def read_metadata(step: pathlib.Path) -> Metadata:
    """The metadata of one checkpoint's folder.

    Raises:
      UserError: it can't be read, or a newer version of this project wrote it.
    """
    if hub.is_hub_folder(step):
        return hub.read_metadata(step)
    try:
        text = (step / METADATA).read_bytes()
    except OSError as error:
        raise UserError(f"The checkpoint {step} has no readable metadata: {error}.") from error
    return metadata.from_json(text, step)


def refuse_newer(step: pathlib.Path) -> None:
    """Raises a UserError for a checkpoint of a newer version, which is not damaged."""
    metadata.refuse_newer(_format(step), step)


def damage(step: pathlib.Path) -> str | None:
    """What is damaged in a checkpoint, or None.

    Raises:
      UserError: it is a hub folder whose config.json can't be read.
    """
    if hub.is_hub_folder(step):
        return hub.damage(step)
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
    """A message if the folder of a step has the name of another step, or None."""
    written = _tree(step).get("step")
    if written is None or str(written) == step.name:
        return None
    return f"it holds step {written}: its folder was renamed"


def write_digests(folder: pathlib.Path) -> None:
    """Writes the digests of a folder. The score is not included, because it may change.

    Raises:
      OSError: it can't be written.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [str(file.relative_to(folder)) for file in files]
    sealed = [name for name in names if name not in (DIGESTS, SCORE, ORBAX_DONE)]
    digests = {name: _seal(folder / name, name) for name in sealed}
    write_whole(folder / DIGESTS, json.dumps(digests, indent=1))


def score(folder: pathlib.Path) -> float | None:
    """The score of a step's folder, mIoU or top-1, or None if it is not known.

    Raises:
      DamagedScoreError: it is damaged.
    """
    if hub.is_hub_folder(folder):
        return hub.score(folder)
    try:
        held = dict(json.loads((folder / SCORE).read_text()))
        seal = held.pop("seal", None)
        ((metric, value),) = held.items()
        score = float(value)
        whole = seal == _score_seal(folder, metric, score) or _format(folder) < 2
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise DamagedScoreError(
            f"{folder / SCORE}, or the {DIGESTS} that it is compared with, is damaged: the score "
            "of that checkpoint is not known. Remove the file, or restore both from a copy."
        )
    return score


def is_scored(step: pathlib.Path) -> bool:
    """Whether the score of a step's folder is known."""
    try:
        return score(step) is not None
    except DamagedScoreError:
        return False


def write_score(folder: pathlib.Path, value: float, metric: str = MIOU) -> None:
    """Writes the score of a step that has digests, by the name of its metric.

    Raises:
      OSError: it can't be written.
    """
    held = {metric: value, "seal": _score_seal(folder, metric, value)}
    write_whole(folder / SCORE, json.dumps(held))


def steps(directory: pathlib.Path) -> list[int]:
    """The steps with a folder, newest first."""
    if not directory.is_dir():
        return []
    found = (p.name for p in directory.iterdir())
    return sorted((int(n) for n in found if n.isdecimal() and str(int(n)) == n), reverse=True)


def remove(folder: pathlib.Path) -> None:
    """Removes a folder, if it is there.

    A save that failed may still write files into it for a moment, so it is tried again.
    """
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def unwritable(folder: pathlib.Path, error: BaseException) -> UserError:
    """The message for a checkpoint that could not be written."""
    if not folder.parent.is_dir():
        return UserError(f"Cannot write the checkpoint {folder}: {folder.parent} is gone.")
    return UserError(
        f"Cannot write the checkpoint {folder}: {reason(error)}. Make room, or choose another "
        "place. Earlier checkpoints are undamaged."
    )


def reason(error: BaseException) -> str:
    """The error as one line, without the traces that libraries add."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if system := OS_ERROR.search(text):  # TensorStore's, with the files that it was writing
        return system[1]
    return text.partition("\n")[0].partition(" [source")[0].rstrip(". ") or type(error).__name__


def _tree(step: pathlib.Path) -> dict[str, Any]:
    """The metadata without checks; empty if it can't be read."""
    try:
        tree = json.loads((step / METADATA).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _format(step: pathlib.Path) -> int:
    """The format of a checkpoint; the current one if it can't be read."""
    found = _tree(step).get("format", metadata.FORMAT)
    return found if isinstance(found, int) else metadata.FORMAT


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _seal(file: pathlib.Path, name: str) -> str:
    """The digest of a file, without the parts that Orbax changes later."""
    if name != ORBAX_STEP:
        return _digest(file)
    try:
        tree = json.loads(file.read_bytes())
        kept = {key: value for key, value in tree.items() if key not in ORBAX_TIMES}
    except (ValueError, AttributeError, RecursionError):
        return "unreadable"
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _score_seal(folder: pathlib.Path, metric: str, value: float) -> str:
    """A digest of this score of this checkpoint. That of mIoU does not name it, as in 0.1."""
    named = "" if metric == MIOU else f"{metric} "
    return hashlib.sha256(f"{named}{value!r} {_digest(folder / DIGESTS)}".encode()).hexdigest()
