"""Checkpoints on disk: of a whole training run, and of a network alone. Both are Orbax's.

A checkpoint is a folder with `model/` (variables by name), `metadata/` (JSON) and, in training,
`optimizer/`. `digests.json` beside them holds the SHA-256 of every file: Orbax restores a flipped
byte without a word, and this is how we notice.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from nonlocal_jax.errors import UserError

FORMAT = 1
DIGESTS = "digests.json"

Variables = Mapping[str, Any]
Path = str | os.PathLike[str]


def save_model(directory: Path, variables: Variables, metadata: Mapping[str, Any]) -> None:
    """Writes a network's variables as a checkpoint; either all of it appears, or nothing.

    Args:
      directory: a folder that does not exist yet.
      variables: arrays by name.
      metadata: what JSON can hold; `kind` says "segmentor" or "backbone".

    Raises:
      UserError: the folder exists, or can't be written.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists():
        raise UserError(f"{directory} exists already; remove it, or choose another folder.")
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    try:
        _remove_unfinished(unfinished)
        directory.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(unfinished, args=_composite(variables, metadata))
        _write_digests(unfinished)
        unfinished.rename(directory)
    except OSError as error:
        raise UserError(f"Cannot write the checkpoint {directory}: {error}.") from error
    finally:
        _remove_unfinished(unfinished)


def load_model(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Variables (NumPy arrays by name) and metadata of a checkpoint.

    Args:
      path: an imported checkpoint, a training workdir (its latest checkpoint that is whole), the
        workdir's `checkpoints` folder, or one step in it.

    Raises:
      UserError: there is no checkpoint, it is damaged, or a newer version wrote it.
    """
    step = find(path)
    problem = damage(step)
    if problem:
        raise UserError(f"The checkpoint {step} is damaged: {problem}. Restore it from a copy.")
    metadata = read_metadata(step)
    with ocp.StandardCheckpointer() as checkpointer:
        structure = checkpointer.metadata(step / "model").item_metadata
        host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), dict(structure))
        variables = checkpointer.restore(step / "model", host)
    return {name: np.asarray(value) for name, value in variables.items()}, metadata


def find(path: Path) -> pathlib.Path:
    """The folder of one checkpoint (it holds `model/`) that `path` names; see `load_model`."""
    path = pathlib.Path(path).absolute()
    if (path / "model").is_dir():
        return path
    for folder in (path / "checkpoints", path):
        steps = _steps(folder)
        for step in steps:
            if not damage(folder / str(step)):
                return folder / str(step)
    if not path.exists():
        raise UserError(f"There is no checkpoint {path}.")
    raise UserError(
        f"{path} holds no checkpoint: neither a model/ of its own nor a checkpoints/STEP/ that is "
        "whole. Name what `python -m nonlocal_jax.convert` or a training run wrote."
    )


def read_metadata(step: pathlib.Path) -> dict[str, Any]:
    """The metadata of one checkpoint's folder.

    Raises:
      UserError: it can't be read, or a newer version of this project wrote it.
    """
    try:
        metadata = json.loads((step / "metadata" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"The checkpoint {step} has no readable metadata: {error}.") from error
    if metadata.get("format", 0) > FORMAT:
        raise UserError(
            f"The checkpoint {step} has format {metadata['format']}, and this version reads up to "
            f"{FORMAT}: update nonlocal_jax."
        )
    return metadata


def damage(step: pathlib.Path) -> str | None:
    """What differs from when the checkpoint was written, or None; None, too, without digests."""
    try:
        digests = json.loads((step / DIGESTS).read_text())
    except FileNotFoundError:
        return None if (step / "model").is_dir() else "it is not complete"
    except (OSError, ValueError) as error:
        return f"{DIGESTS} can't be read ({error})"
    for name, expected in digests.items():
        file = step / name
        if not file.is_file():
            return f"the file {name} is missing"
        if _digest(file) != expected:
            return f"the file {name} has changed since it was written"
    return None


class TrainingCheckpoints:
    """The checkpoints of one run: the latest ones, and the best by mIoU, saved asynchronously."""

    def __init__(self, directory: Path, *, keep: int):
        self.directory = pathlib.Path(directory).absolute()
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["miou"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._set_damaged_aside()
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policy, cleanup_tmp_directories=True
                ),
            )
        except OSError as error:
            raise UserError(f"Cannot write checkpoints to {self.directory}: {error}.") from error
        self._sealing = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> "TrainingCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        variables: Variables,
        optimizer: Any,
        metadata: Mapping[str, Any],
        *,
        miou: float | None = None,
    ) -> None:
        """Starts saving a step; the arrays may be donated as soon as this returns."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=_composite(variables, metadata, optimizer),
            metrics=None if miou is None else {"miou": miou},
        )
        if jax.process_index() == 0:
            self._sealing.submit(self._seal, step)

    def restore(self, variables: Variables, optimizer: Any) -> tuple[int, Variables, Any] | None:
        """Step, variables and optimiser state of the newest checkpoint, or None if there is none.

        Args:
          variables, optimizer: arrays, or jax.ShapeDtypeStructs with shardings, to restore like.
        """
        step = self.latest_step
        if step is None:
            return None
        read_metadata(self.directory / str(step))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(variables),
                optimizer=ocp.args.StandardRestore(optimizer),
            ),
        )
        return step, restored["model"], restored["optimizer"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._sealing.shutdown()
        self._manager.close()

    def _seal(self, step: int) -> None:
        """Writes the digests of a step once Orbax has finished it."""
        self._manager.wait_until_finished()
        folder = self.directory / str(step)
        if folder.is_dir():
            _write_digests(folder)

    def _set_damaged_aside(self) -> None:
        for step in _steps(self.directory):
            folder = self.directory / str(step)
            problem = damage(folder)
            if problem and jax.process_index() == 0:
                aside = folder.with_name(f"{step}.damaged")
                logging.error("Checkpoint %s: %s. Moved to %s.", folder, problem, aside.name)
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)


def _composite(
    variables: Variables, metadata: Mapping[str, Any], optimizer: Any = None
) -> ocp.args.Composite:
    # What JSON can't hold is better found before anything is written than in a thread of Orbax.
    metadata = json.loads(json.dumps({"format": FORMAT, **metadata}))
    items = {
        "model": ocp.args.StandardSave(dict(variables)),
        "metadata": ocp.args.JsonSave(metadata),
    }
    if optimizer is not None:
        items["optimizer"] = ocp.args.StandardSave(optimizer)
    return ocp.args.Composite(**items)


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes a folder, and what Orbax writes before it has that name."""
    for path in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(path, ignore_errors=True)


def _steps(directory: pathlib.Path) -> list[int]:
    """Steps that have a folder, newest first."""
    if not directory.is_dir():
        return []
    return sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_digests(folder: pathlib.Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DIGESTS)
    digests = {str(file.relative_to(folder)): _digest(file) for file in files}
    unfinished = folder / f".{DIGESTS}"
    unfinished.write_text(json.dumps(digests, indent=1))
    unfinished.rename(folder / DIGESTS)
