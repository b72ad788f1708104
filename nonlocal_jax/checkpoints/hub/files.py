"""The files of a hub folder, by the conventions of the Hugging Face hub.

`model.safetensors` holds the arrays, by our names or by PyTorch's. `config.json` holds the metadata
of the checkpoint (see metadata.py), the SHA-256 of the arrays, and one of itself. `README.md` is
the model card. It has no digest, because people edit it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nonlocal_jax.checkpoints import metadata as formats
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import safetensors_file, torch_file
from nonlocal_jax.checkpoints.pytorch.exporter import export_checkpoint
from nonlocal_jax.checkpoints.pytorch.importer import import_checkpoint
from nonlocal_jax.config.schema import Config
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.network import build_network
from nonlocal_jax.runtime import environment
from nonlocal_jax.runtime.files import write_whole

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
LIBRARY = "nonlocal_jax"
Keys = Literal["own", "pytorch"]
KEYS: tuple[Keys, ...] = get_args(Keys)
# What other libraries read of the header: which framework's arrays these are.
FRAMEWORK: dict[Keys, str] = {"own": "flax", "pytorch": "pt"}
LFS_POINTER = b"version https://git-lfs"


def is_hub_folder(folder: Path) -> bool:
    """Whether a folder holds `model.safetensors`, and is no checkpoint of Orbax."""
    return (folder / WEIGHTS).is_file() and not (folder / "model").is_dir()


def read_metadata(folder: Path) -> Metadata:
    """The metadata of a hub folder.

    Raises:
      UserError: it is of another library, can't be read, or a newer version wrote it.
    """
    return formats.from_tree(_read_config(folder), folder)


def score(folder: Path) -> float | None:
    """The score that the run's own evaluation gave the checkpoint, or None.

    Raises:
      UserError: see `read_metadata`.
    """
    found = _read_config(folder).get("score")
    return found if isinstance(found, float) else None


def damage(folder: Path) -> str | None:
    """What is damaged in a hub folder, or None.

    Raises:
      UserError: see `read_metadata`.
    """
    content = _read_config(folder)
    if content.get("seal") != _seal(content):
        return f"the file {CONFIG} has changed since it was written"
    weights = folder / WEIGHTS
    with weights.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return f"the file {WEIGHTS} is a pointer of Git LFS, which `git lfs pull` replaces"
    if torch_file.sha256(weights) != content["weights"]["sha256"]:
        return f"the file {WEIGHTS} has changed since it was written"
    return None


def read_arrays(folder: Path, metadata: Metadata) -> dict[str, np.ndarray]:
    """The arrays of an undamaged hub folder, by our names.

    Args:
      folder: the folder.
      metadata: its metadata.

    Raises:
      UserError: they can't be read, or are not those of the network.
    """
    tensors = torch_file.read(folder / WEIGHTS)
    assert isinstance(tensors, dict)
    if _read_config(folder)["weights"]["keys"] == "own":
        return tensors
    network = build_network(metadata.model)
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    try:
        return import_checkpoint(tensors, shapes, keys=network.torch_keys).variables
    except UserError as error:
        raise UserError(f"{folder} does not fit its config: {error}") from error


def write(
    folder: Path,
    variables: Mapping[str, np.ndarray],
    metadata: Metadata,
    *,
    score: float | None = None,
    keys: Keys = "own",
) -> dict[str, Any]:
    """Writes the arrays and the metadata; returns the content of `config.json`.

    Args:
      folder: where to.
      variables: arrays by our names.
      metadata: of the checkpoint, with its config.
      score: what the run's own evaluation gave.
      keys: names and layouts of the arrays in the file: ours, or those of PyTorch's network.

    Raises:
      UserError: PyTorch's names are asked for, and there are none of this network.
      OSError: a file can't be written.
    """
    tensors = variables if keys == "own" else _for_pytorch(variables, metadata)
    safetensors_file.write(folder / WEIGHTS, tensors, {"format": FRAMEWORK[keys]})
    digest = torch_file.sha256(folder / WEIGHTS)
    content = {
        "library_name": LIBRARY,
        **metadata.to_tree(),
        "versions": {LIBRARY: environment.own_version(), **environment.versions()},
        "weights": {"file": WEIGHTS, "keys": keys, "sha256": digest},
        "score": score,
    }
    content["seal"] = _seal(content)
    write_whole(folder / CONFIG, json.dumps(content, indent=1) + "\n")
    return content


def _for_pytorch(
    variables: Mapping[str, np.ndarray], metadata: Metadata
) -> Mapping[str, np.ndarray]:
    if not isinstance(metadata.config, Config):
        raise UserError(
            "PyTorch's names are known of segmentation networks only: leave out keys=pytorch."
        )
    network = build_network(metadata.config.model)
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    tree = export_checkpoint(variables, metadata, shapes, keys=network.torch_keys)
    state: dict[str, np.ndarray] = tree["state_dict"]
    return state


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder} has a {WEIGHTS} and no {CONFIG}: it is not complete, or no checkpoint of "
            "nonlocal_jax."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} can't be read: {error}. Restore it from a copy.") from error
    if not isinstance(content, dict) or content.get("library_name") != LIBRARY:
        raise UserError(f"{folder} is no checkpoint of nonlocal_jax: its {CONFIG} is of another.")
    weights = content.get("weights")
    if not isinstance(weights, dict) or not {"sha256", "keys"} <= weights.keys():
        raise UserError(f"{file} is damaged: it does not say what is in {WEIGHTS}.")
    return content


def _seal(content: Mapping[str, Any]) -> str:
    """A digest of all of `config.json` but the digest itself."""
    kept = {key: value for key, value in content.items() if key != "seal"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
