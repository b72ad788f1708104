"""Evaluates a checkpoint, and writes its scores and its predictions to a folder."""

import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from nonlocal_jax.checkpoints import compare
from nonlocal_jax.evaluation.evaluate import Evaluation, OnMask
from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.evaluation.result import Result
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import outputs, pictures
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.console import say


def evaluate_to_folder(
    restored: Restored,
    output: pathlib.Path,
    *,
    mesh: Mesh,
    tta: bool = False,
    limit: int | None = None,
    images: Sequence[str] | None = None,
    predictions: bool = False,
    overlays: bool = False,
) -> Result[Scores]:
    """Evaluates a checkpoint on the validation split of its config.

    The first process writes scores.json and confusion.png. Each process writes the requested files
    of its images.

    Args:
      restored: the checkpoint.
      output: the folder.
      mesh: the devices.
      tta: average over the config's scales and mirrored images.
      limit: evaluate the first images only, this many.
      images: evaluate the images of these names only.
      predictions: write PNGs for the server of the benchmark.
      overlays: write images tinted by predicted class.

    Raises:
      UserError: see `Evaluation.run`; or a file can't be written.
    """
    evaluation = Evaluation.of(restored.config, restored.network, mesh, tta=tta)
    dataset = evaluation.inputs.dataset
    if warning := compare.classes(restored.metadata, dataset.class_names):
        say(warning)
    left_out: list[str] = []
    scores = evaluation.run(
        sharding.place_variables(restored.variables, mesh),
        limit=limit,
        images=images,
        on_mask=_writer(evaluation.inputs, output, predictions, overlays),
        on_bad=left_out.append,
    )
    if jax.process_index() == 0:
        about = {"checkpoint": str(restored.found.folder), "step": restored.found.step, "tta": tta}
        content = json.dumps({**about, **scores.details()}, indent=1)
        pictures.write(output / "scores.json", content)
        outputs.write_confusion(
            output / "confusion.png", scores.confusion, scores.class_names, scores.summary()
        )
    return Result(scores, left_out, len(evaluation.inputs.open("val")), "images")


def _writer(
    inputs: Inputs, output: pathlib.Path, predictions: bool, overlays: bool
) -> OnMask | None:
    """The function that writes the files of an image to `output`; None if none are requested."""
    if not (predictions or overlays):
        return None
    dataset, source = inputs.dataset, inputs.open("val")
    values = outputs.server_values(dataset.own_values, dataset.class_names) if predictions else None

    def write(index: int, mask: UInt8[np.ndarray, "h w"]) -> None:
        file = f"{pathlib.PurePosixPath(source.name(index)).with_suffix('')}.png"
        if values is not None:
            outputs.write_server_mask(output / "predictions" / file, mask, values)
        if overlays:
            image = source[index].image
            outputs.write_overlay(
                output / "overlays" / file, image, mask, dataset.class_names, dataset.palette
            )

    return write
