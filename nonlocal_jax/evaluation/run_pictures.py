"""The pictures of a run's report: its checkpoint is applied to a few validation images."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from nonlocal_jax.checkpoints.locate import Found
from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.evaluation.evaluate import choose
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.inputs.example import Example
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import attention, pictures, side_by_side
from nonlocal_jax.reporting.report.run_page import Attended, Drawn

WIDEST = 480  # pixels of a picture's longer side


class Pictures(NamedTuple):
    """The pictures, and a sentence on which images they are of."""

    drawn: list[Drawn]
    note: str


def draw(found: Found, config: schema.Config, worst: Sequence[str], count: int) -> Pictures:
    """The pictures of a checkpoint.

    Args:
      found: the checkpoint.
      config: its config.
      worst: names of the images that an evaluation was worst on; the first of them are drawn. If
        there are none, the first images of the validation split are.
      count: of images.

    Raises:
      UserError: the checkpoint or the data is not there, is damaged, or does not match.
    """
    source = Inputs.of(config).open("val")
    chosen = choose(source, images=list(worst[:count]) or None, limit=count)
    model = predictor.load(found.folder, config)
    assert isinstance(model, Predictor)
    precision = None if config.precision == "default" else config.precision
    with jax.default_matmul_precision(precision):
        drawn = [_draw(model, source[index]) for index in chosen]
    drawn.sort(key=lambda one: 1.0 if one.accuracy is None else one.accuracy)
    where = f"Of {found}" if found.run else "Of the checkpoint"
    what = "the images with most wrong pixels" if worst else "the first images of the split"
    return Pictures(drawn, f"{where}: {what}.")


def _draw(model: Predictor, example: Example) -> Drawn:
    image, label = example.image, example.label
    mask = model.predict(image)
    seen = label != IGNORED
    wrong = seen & (mask != label)
    attended = None
    if model.has_attention:
        point = _point(wrong)
        weights = model.attention(image, point)
        overlay = pictures.shrink(attention.overlay(image, weights, point), WIDEST)
        attended = Attended(overlay, attention.bar(image, WIDEST), attention.peak(weights))
    panels = side_by_side.panels(image, label, mask, model.class_names, model.palette)
    accuracy = 1 - float(wrong.sum() / seen.sum()) if seen.any() else None
    return Drawn(example.name, accuracy, panels.shrunk(WIDEST), attended)


def _point(wrong: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """The middle of the largest error, or of the image; the image's border counts as right."""
    inside = np.pad(wrong if wrong.any() else np.ones_like(wrong), 1)
    row, column = pictures.inmost(inside)
    return row - 1, column - 1
