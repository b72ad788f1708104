"""Tests a checkpoint on videos, and writes its scores to a folder."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from nonlocal_jax.checkpoints import compare
from nonlocal_jax.evaluation.result import Result
from nonlocal_jax.evaluation.video.evaluate import VideoEvaluation
from nonlocal_jax.evaluation.video.restore import RestoredVideo
from nonlocal_jax.evaluation.video.scores import VideoScores
from nonlocal_jax.reporting import pictures
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.console import say


def evaluate_to_folder(
    restored: RestoredVideo,
    output: pathlib.Path,
    *,
    mesh: Mesh,
    mirrored: bool = False,
    limit: int | None = None,
    videos: Sequence[str] | None = None,
) -> Result[VideoScores]:
    """Tests a checkpoint on the validation split of its config.

    The first process writes scores.json, with the first five classes of each video.

    Args:
      restored: the checkpoint.
      output: the folder.
      mesh: the devices.
      mirrored: add each view mirrored.
      limit: test the first videos only, this many.
      videos: test the videos of these names only.

    Raises:
      UserError: see `VideoEvaluation.run`; or a file can't be written.
    """
    config = restored.config
    views = dataclasses.replace(config.eval, flip=config.eval.flip or mirrored)
    config = dataclasses.replace(config, eval=views)
    evaluation = VideoEvaluation.of(config, restored.network, mesh)
    if warning := compare.classes(restored.metadata, evaluation.inputs.dataset.class_names):
        say(warning)
    left_out: list[str] = []
    scores = evaluation.run(
        sharding.place_variables(restored.variables, mesh),
        limit=limit,
        videos=videos,
        on_bad=left_out.append,
    )
    if jax.process_index() == 0:
        found = restored.found
        about = {
            "checkpoint": str(found.folder),
            "step": found.step,
            "views": evaluation.views,
        }
        content = json.dumps({**about, **scores.details()}, indent=1)
        pictures.write(output / "scores.json", content)
    return Result(scores, left_out, len(evaluation.inputs.open("val")), "videos")
