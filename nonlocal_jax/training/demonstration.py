"""The demo: two networks, with and without the block, on scenes of inputs/datasets/scenes.py."""

import pathlib
from typing import cast

import cv2
import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Config
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.inputs.datasets import scenes
from nonlocal_jax.inputs.example import Example
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import pictures
from nonlocal_jax.runtime.console import say
from nonlocal_jax.training.loop import train

HEADS = {"fcn": "without the block", "nonlocal": "with the block"}
PICTURES = 4  # of unseen scenes


def demonstrate(config: Config, workdir: pathlib.Path) -> dict[str, Scores]:
    """Trains with and without the block, prints both results, and draws unseen scenes.

    Args:
      config: the config of the network with the block.
      workdir: gets the folders of both runs, and scene_0.png and so on.

    Returns:
      The scores on unseen scenes by the decode head's name.
    """
    scores, predictors = {}, {}
    for head, what in HEADS.items():
        say(f"\n--- {what.capitalize()} ---")
        variant = files.override(config, **{"model.decode_head.name": head})
        scores[head] = cast(Scores, train(variant, workdir / head))
        predictors[head] = cast(Predictor, predictor.load(workdir / head))
    unseen = Inputs.of(config).open("val")
    shares = [draw(index, unseen[index], predictors, workdir) for index in range(PICTURES)]
    say(f"\n{compare(scores)}\n")
    on_lamp, area = np.mean(shares, axis=0)
    say(
        f"Pixels marked in {PICTURES} unseen scenes draw {on_lamp:.0%} of what they gather from "
        f"the lamp, which covers {area:.0%} of the picture: {workdir}/scene_0.png and on."
    )
    return scores


def compare(scores: dict[str, Scores]) -> str:
    """A table of the IoU of both networks by class and on average, in percent."""
    titles = "".join(f"{HEADS[head]:>20}" for head in scores)
    lines = [f"{'IoU on unseen scenes':<24}{titles}"]
    names = next(iter(scores.values())).class_names
    columns = [[*result.iou, result.miou] for result in scores.values()]
    for name, *values in zip([*names, "mIoU"], *columns, strict=True):
        lines.append(f"{name:<24}" + "".join(f"{100 * value:>20.1f}" for value in values))
    return "\n".join(lines)


def draw(
    index: int, example: Example, predictors: dict[str, Predictor], workdir: pathlib.Path
) -> tuple[float, float]:
    """Writes scene_INDEX.png: the scene, its label, both predictions, and a pixel's attention.

    Returns:
      The share of the marked pixel's attention that is on the lamp, and of the picture that is.
    """
    image, label = example.image, example.label
    lamp = scenes.lamp_mask(image, label)
    point = inmost((label > 0) & ~lamp)
    attention = predictors["nonlocal"].attention(image, point)
    rows = {"image": image, "label": pictures.colourise(label, scenes.PALETTE)}
    for head, model in predictors.items():
        rows[HEADS[head]] = pictures.colourise(model.predict(image), scenes.PALETTE)
    rows["what + attends to"] = pictures.attention_overlay(image, attention, point)
    parts = [part for title, picture in rows.items() for part in (_line(title), picture)]
    parts.append(pictures.legend(scenes.CLASS_NAMES, scenes.PALETTE, scenes.WIDTH))
    pictures.write_png(workdir / f"scene_{index}.png", pictures.stack(parts))

    # The share of each position of the feature map that is lamp.
    size = attention.shape[1], attention.shape[0]
    covered = cv2.resize(lamp.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return float((attention * covered).sum() / attention.sum()), float(lamp.mean())


def inmost(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Row and column of the pixel of `mask` that is farthest from its border."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def _line(text: str) -> pictures.Picture:
    """A line of text, black on white."""
    canvas = Image.new("RGB", (scenes.WIDTH, 16), (pictures.BACKGROUND,) * 3)
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(canvas).text((2, 0), text, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)
