"""Checkpoints of a network without a run: writes imports, and reads any checkpoint.

A checkpoint is a folder with `model/` (by Orbax, arrays by name), `metadata/` (JSON),
`digests.json` and, in a run, `optimizer/` and `score.json`; see folder.py. A run that averages its
weights has `average/` beside `model/`: that was evaluated, and is read unless told otherwise. A hub
folder is a checkpoint of another form; see hub/files.py.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from nonlocal_jax.checkpoints import folder as files
from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.hub import files as hub
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.errors import UserError

Variables = Mapping[str, Any]
Path = str | os.PathLike[str]
ATTEMPTS = 5  # a running training may remove the checkpoint meanwhile


def save_model(directory: Path, variables: Variables, metadata: Metadata) -> None:
    """Writes the variables of a network as a checkpoint, atomically.

    Args:
      directory: a folder that does not exist yet.
      variables: arrays by name.
      metadata: of the checkpoint.

    Raises:
      UserError: the folder exists, or can't be written.
      TypeError: JSON can't hold the metadata.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists():
        raise UserError(f"{directory} exists already; remove it, or choose another folder.")
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    items = ocp.args.Composite(
        model=ocp.args.StandardSave(dict(variables)),
        metadata=ocp.args.JsonSave(metadata.to_tree()),
    )
    try:
        _remove(unfinished)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(unfinished, args=items)
        files.write_digests(unfinished)
        unfinished.rename(directory)
    except (OSError, ValueError) as error:
        raise files.unwritable(directory, error) from error
    finally:
        _remove(unfinished)


def load_model(
    path: Path, step: locate.Step | None = None, *, averaged: bool = True
) -> tuple[dict[str, np.ndarray], Metadata]:
    """Variables (NumPy arrays by name) and metadata of a checkpoint.

    Args:
      path: what `locate.find` takes.
      step: of a run: a number, "latest", "best" by mIoU; by default the best, else the latest.
      averaged: whether the average of the weights is read where there is one.

    Raises:
      UserError: there is no checkpoint, it is damaged, or a newer version wrote it.
    """
    for attempt in range(ATTEMPTS):
        found = locate.find(path, step)
        try:
            return load_found(found, averaged=averaged)
        except UserError:
            if found.folder.is_dir() or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


def load_found(
    found: locate.Found, *, averaged: bool = True
) -> tuple[dict[str, np.ndarray], Metadata]:
    """Loads one checkpoint; see `load_model`.

    Raises:
      UserError: it is damaged, or a newer version wrote it.
    """
    try:
        metadata = files.read_metadata(found.folder)
        problem = files.damage(found.folder) or found.renamed()
        if problem:
            raise UserError(
                f"The checkpoint {found.folder} is damaged: {problem}. Restore it from a copy."
            )
        if hub.is_hub_folder(found.folder):
            return hub.read_arrays(found.folder, metadata), metadata
        average = found.folder / files.AVERAGE
        chosen = average if averaged and average.is_dir() else found.folder / files.MODEL
        return _read(chosen), metadata
    except (OSError, ValueError, KeyError, UserError) as error:
        if found.folder.is_dir():
            raise
        raise UserError(
            f"The run has removed {found.folder} while it was read. Try again: the run's latest "
            "and best checkpoints are there."
        ) from error


def _read(model: pathlib.Path) -> dict[str, np.ndarray]:
    # The handler's own method; the Checkpointer's warns that `model` is no checkpoint by itself.
    structure = ocp.StandardCheckpointHandler().metadata(model)
    host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), dict(structure.tree))
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(model, host)
    return {name: np.asarray(value) for name, value in variables.items()}


def _remove(unfinished: pathlib.Path) -> None:
    """Removes a folder, and what Orbax writes before it has that name."""
    files.remove(unfinished)
    files.remove(unfinished.with_name(f"{unfinished.name}.orbax-checkpoint-tmp"))
