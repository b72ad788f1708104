"""Evaluates a checkpoint, and writes its scores and its predictions to a folder."""

import json
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from nonlocal_jax.checkpoints import compare
from nonlocal_jax.evaluation.evaluate import Evaluation, OnMask, Variables
from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.evaluation.result import Result
from nonlocal_jax.evaluation.worst import KEPT
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import outputs, pictures, side_by_side
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
    pictures_of: int = 0,
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
      pictures_of: write image, label, prediction and error of the worst images, this many.

    Raises:
      UserError: see `Evaluation.run`; or a file can't be written.
    """
    evaluation = Evaluation.of(restored.config, restored.network, mesh, tta=tta)
    dataset = evaluation.inputs.dataset
    if warning := compare.classes(restored.metadata, dataset.class_names):
        say(warning)
    left_out: list[str] = []
    variables = sharding.place_variables(restored.variables, mesh)
    scores = evaluation.run(
        variables,
        limit=limit,
        images=images,
        on_mask=_writer(evaluation.inputs, output, predictions, overlays),
        on_bad=left_out.append,
        keep_worst=max(pictures_of, KEPT),
    )
    if pictures_of:
        _draw_worst(evaluation, variables, scores, pictures_of, output / "worst")
    if jax.process_index() == 0:
        about = {"checkpoint": str(restored.found.folder), "step": restored.found.step, "tta": tta}
        content = json.dumps({**about, **scores.details()}, indent=1)
        pictures.write(output / "scores.json", content)
        outputs.write_confusion(
            output / "confusion.png", scores.confusion, scores.class_names, scores.summary()
        )
    return Result(scores, left_out, len(evaluation.inputs.open("val")), "images")


def _draw_worst(
    evaluation: Evaluation, variables: Variables, scores: Scores, count: int, folder: pathlib.Path
) -> None:
    """Evaluates the worst images once more, and writes what is wrong with each: 01_NAME.png."""
    dataset, source = evaluation.inputs.dataset, evaluation.inputs.open("val")
    worst = {image.name: (rank, image) for rank, image in enumerate(scores.worst[:count], 1)}

    def draw(index: int, mask: UInt8[np.ndarray, "h w"]) -> None:
        example, (rank, judged) = source[index], worst[source.name(index)]
        shown = side_by_side.panels(
            example.image, example.label, mask, dataset.class_names, dataset.palette
        )
        title = f"{judged.name}: {100 * judged.accuracy:.1f}% of the labelled pixels are right"
        stem = pathlib.PurePosixPath(judged.name).with_suffix("").name
        picture = side_by_side.side_by_side(shown, title)
        pictures.write_png(folder / f"{rank:02}_{stem}.png", picture)

    if worst:
        say(f"Drawing the {len(worst)} worst images.")
        evaluation.run(variables, images=list(worst), on_mask=draw)


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
