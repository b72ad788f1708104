"""A run's folder: which config it belongs to, and what was on the machine.

Nothing in it is touched before it is known that it belongs to this config.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nonlocal_jax.errors import UserError

# What may change when a run goes on: none of it changes what is learned.
FREE = (
    "data_dir",
    "data.num_threads",
    "data.num_workers",
    "data.source",
    "data.on_bad_example",
    "eval",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "mesh",
    "published",
    "skip_nonfinite_steps",
)
OF_A_RUN = ("metrics.jsonl", "checkpoints", "model")  # never there before config.json


def claim(workdir: pathlib.Path, config: ConfigDict, environment: Mapping[str, object]) -> None:
    """Creates the folder with the resolved config, or checks that it belongs to this config.

    Raises:
      UserError: the folder holds a run of another config, or one that is unknown, or can't be
        written.
    """
    text = config.to_json_best_effort(indent=2)
    file = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if file.exists():
            _refuse(f"{workdir} holds a run", _read(file), json.loads(text))
        else:
            _refuse_unknown(workdir)
        _replace(file, text)
        _replace(workdir / "environment.json", json.dumps(environment, indent=2))
    except OSError as error:
        raise UserError(
            f"Cannot use {workdir} as the workdir: {error}. Choose another with --workdir."
        ) from error


def check_checkpoint(folder: pathlib.Path, metadata: Mapping[str, Any], config: ConfigDict) -> None:
    """Raises a UserError if a checkpoint's metadata tell of another config."""
    if "config" in metadata:
        ours = json.loads(config.to_json_best_effort())
        _refuse(f"{folder} is a checkpoint", metadata["config"], ours)


def _replace(file: pathlib.Path, text: str) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(text + "\n")
    unfinished.rename(file)


def _read(file: pathlib.Path) -> object:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({error}): it is unknown which config {file.parent} belongs to. "
            "Restore the file from a copy, or choose another --workdir."
        ) from error


def _refuse_unknown(workdir: pathlib.Path) -> None:
    found = [name for name in OF_A_RUN if (workdir / name).exists()]
    if found:
        raise UserError(
            f"{workdir} holds {' and '.join(found)} but no config.json: it is unknown which config "
            "they belong to. Choose another --workdir, or remove them."
        )


def _refuse(what: str, theirs: object, ours: object) -> None:
    """Raises a UserError that says `what` and its differences, if there are any."""
    before, now = _flatten(theirs), _flatten(ours)
    changed = [
        f"config.{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(set(before) | set(now))
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if changed:
        raise UserError(
            f"{what} of another config:\n  " + "\n  ".join(changed) + "\n"
            "Choose another --workdir, or remove that one."
        )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _flatten(node: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    flat: dict[str, object] = {}
    for key, value in node.items():
        flat.update(_flatten(value, f"{prefix}{key}."))
    return flat
