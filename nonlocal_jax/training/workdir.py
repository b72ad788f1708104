"""A run's folder: the config that it belongs to, and the environment of its last start.

A folder belongs to a run once it holds a checkpoint or a log entry. Until then another config may
use it, so a start that fails blocks nothing.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from nonlocal_jax.checkpoints.manager import UNFINISHED
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files, versions
from nonlocal_jax.config.schema import Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.reporting.history import CONFIG, ENVIRONMENT, LOG
from nonlocal_jax.runtime.files import write_whole

# Keys that may change when a run is resumed: they do not affect what is learned.
FREE = (
    "data_dir",
    "data.num_threads",
    "data.num_workers",
    "data.source",
    "data.on_bad_example",
    "eval",
    "log_every",
    "log_to",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "mesh",
    "published",
    "skip_nonfinite_steps",
)
OF_A_RUN = (LOG, "checkpoints", "model")  # never there before config.json
TOTAL_STEPS = (
    "The learning rate falls over config.total_steps, so a run can't be made longer. To continue "
    "from its weights, start another run: --config.init_from={folder}, with another --workdir."
)


def claim(workdir: pathlib.Path, config: Run, environment: Mapping[str, object]) -> None:
    """Creates the folder for a config, or checks that it belongs to that config.

    Raises:
      UserError: the folder holds a run of another config, or one that is unknown, or can't be
        written.
    """
    file = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _refuse_unknown(workdir)
        elif _has_begun(workdir):
            _refuse(f"{workdir} holds a run", workdir, _read(file), config)
        text = json.dumps(versions.with_format(files.to_tree(config)), indent=2)
        write_whole(file, text + "\n")
        write_whole(workdir / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"Cannot use {workdir} as the workdir: {error}. Choose another with --workdir."
        ) from error


def check_checkpoint(folder: pathlib.Path, metadata: Metadata, config: Run) -> None:
    """Raises a UserError if the metadata of a checkpoint have another config."""
    if metadata.config is not None:
        _refuse(f"{folder} is a checkpoint", folder.parent.parent, metadata.config, config)


def _has_begun(workdir: pathlib.Path) -> bool:
    """Whether the folder holds a log entry or a checkpoint."""
    return any(_holds_something(workdir / name) for name in OF_A_RUN if (workdir / name).exists())


def _holds_something(path: pathlib.Path) -> bool:
    if path.is_dir():
        return any(not p.name.startswith(".") and UNFINISHED not in p.name for p in path.iterdir())
    return path.stat().st_size > 0


def _read(file: pathlib.Path) -> Run:
    """The config of a run, written by any version."""
    try:
        json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged ({error}): it is unknown which config {file.parent} belongs to. "
            "Restore the file from a copy, or choose another --workdir."
        ) from error
    try:
        return files.validate(files.complete(versions.read_json(file)))
    except UserError as error:
        raise UserError(
            f"{file} holds a config that this version of nonlocal_jax can't read: {error}"
        ) from error


def _refuse_unknown(workdir: pathlib.Path) -> None:
    found = [name for name in OF_A_RUN if (workdir / name).exists()]
    if found:
        raise UserError(
            f"{workdir} holds {' and '.join(found)} but no {CONFIG}: it is unknown which config "
            "they belong to. Choose another --workdir, or remove them."
        )


def _refuse(what: str, workdir: pathlib.Path, theirs: Run, ours: Run) -> None:
    """Raises a UserError that lists the differences of two configs, if there are any."""
    before, now = (files.flatten(files.to_tree(config)) for config in (theirs, ours))
    keys = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    changed = {
        key: f"config.{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(keys)
        if not _is_free(key) and not _is_of_one_module(key, before, now)
    }
    if not changed:
        return
    advice = "Choose another --workdir, or remove that one."
    if list(changed) == ["total_steps"]:
        advice = TOTAL_STEPS.format(folder=workdir)
    listed = "\n  ".join(changed.values())
    raise UserError(f"{what} of another config:\n  {listed}\n{advice}")


def _is_of_one_module(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a section of the key has another module, and one of the two lacks the key.

    The section's `name` is a difference then, which says enough.
    """
    if key in before and key in now:
        return False
    sections = itertools.accumulate(key.split(".")[:-1], lambda above, name: f"{above}.{name}")
    names = [f"{section}.name" for section in sections]
    return any(before.get(name) != now.get(name) for name in names if name in before.keys() & now)


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)
