"""A run's folder: which config it belongs to, and what was on the machine."""

import json
import pathlib
from collections.abc import Mapping

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
)


def claim(workdir: pathlib.Path, config: ConfigDict, environment: Mapping[str, object]) -> None:
    """Creates the folder with the resolved config, or checks that it belongs to this config.

    Raises:
      UserError: the folder holds a run of another config, or can't be written.
    """
    text = config.to_json_best_effort(indent=2)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = workdir / "config.json"
        if file.exists():
            _check(workdir, json.loads(file.read_text()), json.loads(text))
        _replace(file, text)
        _replace(workdir / "environment.json", json.dumps(environment, indent=2))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"Cannot use {workdir} as the workdir: {error}. Choose another with --workdir."
        ) from error


def _replace(file: pathlib.Path, text: str) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(text + "\n")
    unfinished.rename(file)


def _check(workdir: pathlib.Path, theirs: object, ours: object) -> None:
    before, now = _flatten(theirs), _flatten(ours)
    changed = [
        f"config.{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(set(before) | set(now))
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
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
