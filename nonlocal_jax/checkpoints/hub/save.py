"""Saves a checkpoint as a hub folder. It is verified, and written atomically."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.checkpoints import compare, conversion, folder, locate, model
from nonlocal_jax.checkpoints.hub import card, files
from nonlocal_jax.checkpoints.hub.files import Keys
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config.schema import Config, Run
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.models import network, video_network

LICENSE = "apache-2.0"


def save(
    found: locate.Found,
    config: Run,
    directory: str | os.PathLike[str],
    *,
    class_names: Sequence[str],
    palette: UInt8[np.ndarray, "classes 3"] | None = None,
    keys: Keys = "own",
    license: str = LICENSE,
) -> Path:
    """Writes a checkpoint as a hub folder, and returns its path.

    The arrays are the checkpoint's own, the auxiliary head among them; of a run that averages its
    weights, the average.

    Args:
      found: the checkpoint.
      config: the config it is used with, which is saved.
      directory: a folder that does not exist yet.
      class_names: one per class index.
      palette: RGB of each class; None for videos.
      keys: "pytorch" for the names and layouts of PyTorch's network.
      license: of the weights, by the hub's name, as "apache-2.0".

    Raises:
      UserError: the folder exists or can't be written, the checkpoint is damaged or of another
        network, or PyTorch has no names for it.
    """
    check(directory, keys, license)
    directory = Path(directory).absolute()
    variables, before = model.load_found(found)
    shapes = _network(config).shapes
    compare.refuse(found, [], compare.difference(variables, shapes))
    meta = {**before.meta, "CLASSES": list(class_names)}
    if palette is not None:
        meta["PALETTE"] = palette.tolist()
    metadata = replace(before, config=config, meta=meta, recent=None)
    score = folder.score(found.folder) if _is_evaluated_alike(before, config) else None
    if score is not None and not math.isfinite(score):  # of a run without labels for validation
        score = None
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    try:
        folder.remove(unfinished)
        unfinished.mkdir(parents=True)
        content = files.write(unfinished, variables, metadata, score=score, keys=keys)
        text = card.text(directory.name, content, metadata, variables, license)
        (unfinished / files.CARD).write_text(text, encoding="utf-8")
        if problem := files.damage(unfinished):
            raise UserError(f"{directory} was not kept: {problem}.")
        conversion.check_equal(directory, variables, files.read_arrays(unfinished, metadata))
        unfinished.rename(directory)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {folder.reason(error)}.") from error
    finally:
        folder.remove(unfinished)
    return directory


def check(directory: str | os.PathLike[str], keys: str = "own", license: str = LICENSE) -> None:
    """Raises a UserError if nothing can be saved under `directory`, or so named."""
    if not os.fspath(directory):
        raise UserError("The folder to save to is missing: give its path.")
    if os.path.lexists(directory):
        raise UserError(f"{directory} exists already; remove it, or choose another folder.")
    if keys not in files.KEYS:
        raise UserError(f"keys is {keys!r}; it must be one of {', '.join(files.KEYS)}.")
    if not license or not license.isprintable():
        raise UserError(f"The license is {license!r}; give its name, as {LICENSE}.")


def _network(config: Run) -> Any:
    if isinstance(config, VideoConfig):
        return video_network.build_network(config.model)
    assert isinstance(config, Config)
    return network.build_network(config.model)


def _is_evaluated_alike(before: Metadata, config: Run) -> bool:
    """Whether the checkpoint's score is one of the network and the protocol of `config`."""
    first, now = before.config, config
    return all(
        getattr(first, key, None) == getattr(now, key) for key in ("task", "model", "eval", "data")
    )
