"""Converts Caffe2 files to checkpoints and back. Results are verified, and written atomically."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from nonlocal_jax.checkpoints import compare, conversion, locate, model
from nonlocal_jax.checkpoints.caffe2 import blob_file, exporter, importer
from nonlocal_jax.checkpoints.caffe2.blob_file import ITERATIONS, LEARNING_RATE, Blob, Blobs
from nonlocal_jax.checkpoints.finite import not_finite
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import download, torch_file
from nonlocal_jax.checkpoints.pytorch.pickle_names import printable
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.video_network import build_network

SHOWN = 10
# What `--export --form=NAME` makes of a network.
FORMS: dict[str, Callable[[Blobs], dict[str, Blob]]] = {
    "checkpoint": dict,
    "affine": exporter.to_affine,
    "fine_tuning": exporter.for_fine_tuning,
}


def import_(
    config: VideoConfig,
    name: str,
    source: str,
    output: Path,
    *,
    initial: bool = False,
    allow_nan: bool = False,
) -> None:
    """Writes the checkpoint folder `output` from a Caffe2 file, and prints what it holds.

    Args:
      config: of the network.
      name: of the config.
      source: the file; if empty, the published one is downloaded.
      output: a folder that does not exist yet.
      initial: the file holds weights to start training from, see `importer.import_initial`. If it
        has batch norms and the network is affine, they are made affine layers.
      allow_nan: accept values that are NaN or infinite.

    Raises:
      UserError: the file is missing, damaged, unsafe, or of another network. Then nothing is left
        at `output`.
    """
    file = Path(source) if source else _published(config, name)
    digest = torch_file.sha256(file)
    blobs = blob_file.read(file)
    network = build_network(config.model)
    converted = initial and _is_affine(network.shapes) and not _is_affine(blobs)
    try:
        if converted:
            blobs = exporter.to_affine(blobs)
        take = importer.import_initial if initial else importer.import_checkpoint
        result = take(blobs, network)
    except UserError as error:
        raise UserError(f"{file} does not fit {name}: {error}") from error
    conversion.check_finite(file, result.not_finite, allow_nan)
    metadata = Metadata(
        kind="backbone" if initial else "recognizer",
        config=None if initial else config,
        network=name,
        source={"file": file.name, "sha256": digest},
        meta={"new": result.new} if result.new else {},
    )
    beside = {key: np.asarray(value) for key, value in result.rest.items()}
    conversion.save_verified(output, result.variables, metadata, beside)
    print("\n".join([*conversion.table(file, digest, result.variables), *_notes(result)]))
    if converted:
        print("Batch norms were made affine layers.")
    print(f"Written to {output} and read back: every value is the file's.")


def export(
    found: locate.Found,
    config: VideoConfig,
    output: Path,
    *,
    form: str = "checkpoint",
    departing: Collection[str] = (),
    allow_nan: bool = False,
) -> None:
    """Writes a Caffe2 file from a checkpoint of ours, and prints what it holds.

    What an import kept beside the network, its momenta and its two numbers, is written again. The
    file of a run has no momenta; its learning rate is that of the config.

    Args:
      found: the checkpoint.
      config: its own, or another one whose network is the same.
      output: a file that does not exist yet.
      form: one of FORMS: the network, or weights to start an affine network or fine-tuning from.
      departing: dotted keys of the config that were given another value on purpose.
      allow_nan: accept values that are NaN or infinite.

    Raises:
      UserError: the checkpoint is damaged, is of another network, or holds values that are not
        finite. Then nothing is left at `output`.
    """
    variables, metadata = model.load_found(found)
    network = build_network(config.model)
    settings = compare.meaning(metadata, config.model)
    compare.refuse(found, [settings[key] for key in settings if key not in departing], [])
    beside = conversion.read_beside(found.folder)
    rest = {k: v if v.dtype == np.float32 else v.item() for k, v in beside.items()}
    try:
        whole = exporter.export_checkpoint(variables, network, rest or _numbers(config, metadata))
        blobs = FORMS[form](whole)
    except UserError as error:
        raise UserError(f"{found} does not fit its config: {error}") from error
    conversion.check_finite(found, not_finite(blobs), allow_nan)
    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        blob_file.write(unfinished, blobs)
        conversion.check_equal(output, _arrays(blobs), _arrays(blob_file.read(unfinished)))
        unfinished.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"Written {found} to {output}, and read back: {len(blobs)} blobs.")


def _published(config: VideoConfig, name: str) -> Path:
    if not config.published.url:
        raise UserError(f"There is no published file of {name}; give one with --input.")
    return download.fetch(config.published.url)


def _is_affine(names: Collection[str]) -> bool:
    """Whether a network, or the blobs of a file, have no running statistics."""
    return not any(name.endswith(("/mean", *importer.STATISTICS)) for name in names)


def _numbers(config: VideoConfig, metadata: Metadata) -> dict[str, Blob]:
    rate = np.array([config.optimizer.learning_rate], np.float32)
    return {LEARNING_RATE: rate, ITERATIONS: metadata.step or 0}


def _arrays(blobs: Blobs) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in blobs.items()}


def _notes(result: importer.ImportResult) -> list[str]:
    """Lines about what was left out, inflated, or kept beside the network."""
    lists = {
        "Kept for an export": list(result.rest),
        "Left out by rule": result.left_out,
        "Inflated": result.inflated,
        "Not in the file, so new in training": result.new,
    }
    lines = []
    for title, names in lists.items():
        shown = [printable(name) for name in names[:SHOWN]] + ["..."] * (len(names) > SHOWN)
        if names:
            lines.append(f"{title}: {len(names)} ({', '.join(shown)}).")
    return lines
