"""The demo: networks that differ in their head, on the scenes of inputs/datasets/scenes.py."""

import pathlib
import statistics
import time
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Config
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.inputs.datasets import scenes
from nonlocal_jax.inputs.example import Example
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import pictures
from nonlocal_jax.runtime.console import say
from nonlocal_jax.training.loop import train

# Every head by its name in a config. The first has no block.
HEADS = {
    "fcn": "FCN, no block",
    "nonlocal": "NonLocalNet",
    "dnl": "DNL",
    "gc": "GCNet",
    "ann": "ANN",
    "cc": "CCNet",
    "da": "DANet",
    "isa": "ISANet",
    "ema": "EMANet",
    "psa": "PSANet",
}
# Settings that make a head as narrow as the rest of the demo's network.
NARROW: dict[str, dict[str, object]] = {
    "ann": {"project_channels": 16},
    "da": {"position_channels": 16},
    "ema": {"ema_channels": 32, "bases": 16},
    "isa": {"attention_channels": 16},
    "psa": {"mask_size": (7, 63)},  # every offset in a map of 8x64 positions that is halved
}
PICTURES = 4  # of unseen scenes
REPEATS = 20  # of a timed prediction


@dataclass(frozen=True)
class Result:
    """What is told of a network.

    Attributes:
      scores: on unseen scenes.
      parameters: number of its parameters and statistics.
      milliseconds: median time of the prediction of one scene.
    """

    scores: Scores
    parameters: int
    milliseconds: float


def demonstrate(config: Config, workdir: pathlib.Path, heads: list[str]) -> dict[str, Result]:
    """Trains a network with each head, prints their results, and draws unseen scenes.

    Args:
      config: the config of the network; its decode head is replaced.
      workdir: gets a folder for each run, and scene_0.png and so on.
      heads: names of HEADS.

    Raises:
      UserError: a head is none of HEADS.
    """
    for head in heads:
        if head not in HEADS:
            raise UserError(
                f"--heads names {head!r}; it must be one of {', '.join(HEADS)}, or all."
            )
    results, predictors = {}, {}
    unseen = Inputs.of(config).open("val")
    for head in heads:
        say(f"\n--- {HEADS[head]} ---")
        scores = cast(Scores, train(with_head(config, head), workdir / head))
        predictors[head] = cast(Predictor, predictor.load(workdir / head))
        results[head] = _measured(scores, predictors[head], unseen[0].image)
    shares = [draw(index, unseen[index], predictors, workdir) for index in range(PICTURES)]
    say(f"\n{compare(results)}\n")
    for head in shares[0]:
        on_lamp, area = np.mean([share[head] for share in shares], axis=0)
        say(
            f"{HEADS[head]}: pixels marked in {PICTURES} unseen scenes attend to the lamp with "
            f"{on_lamp:.0%} of their weight. It covers {area:.0%} of the picture."
        )
    say(f"Pictures: {workdir}/scene_0.png and on.")
    return results


def with_head(config: Config, head: str) -> Config:
    """The config with another decode head."""
    narrow = {f"model.decode_head.{key}": value for key, value in NARROW.get(head, {}).items()}
    return cast(Config, files.override(config, **{"model.decode_head.name": head, **narrow}))


def compare(results: dict[str, Result]) -> str:
    """A table with a row for each network: IoU of each class in percent, mIoU, size and time."""
    names = next(iter(results.values())).scores.class_names
    titles = "".join(f"{title:>12}" for title in (*names, "mIoU", "parameters", "ms a scene"))
    lines = [f"{'IoU on unseen scenes':<20}{titles}"]
    for head, result in results.items():
        percents = (f"{100 * iou:>12.1f}" for iou in (*result.scores.iou, result.scores.miou))
        rest = f"{result.parameters:>12,}{result.milliseconds:>12.1f}"
        lines.append(f"{HEADS[head]:<20}{''.join(percents)}{rest}")
    return "\n".join(lines)


def draw(
    index: int, example: Example, predictors: dict[str, Predictor], workdir: pathlib.Path
) -> dict[str, tuple[float, float]]:
    """Writes scene_INDEX.png: the scene, its label, all predictions, and a pixel's attention.

    Returns:
      By head, the share of the marked pixel's attention that is on the lamp, and of the picture.
    """
    image, label = example.image, example.label
    lamp = scenes.lamp_mask(image, label)
    point = pictures.inmost((label > 0) & ~lamp)
    rows = {"image": image, "label": pictures.colourise(label, scenes.PALETTE)}
    shares = {}
    for head, model in predictors.items():
        rows[HEADS[head]] = pictures.colourise(model.predict(image), scenes.PALETTE)
        if model.has_attention:
            attention = model.attention(image, point)
            overlay = pictures.attention_overlay(image, attention, point)
            rows[f"{HEADS[head]}: what + attends to"] = overlay
            # The share of each position of the feature map that is lamp.
            size = attention.shape[1], attention.shape[0]
            covered = cv2.resize(lamp.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            on_lamp = float((attention * covered).sum() / attention.sum())
            shares[head] = on_lamp, float(lamp.mean())
    parts = [part for title, picture in rows.items() for part in (_line(title), picture)]
    parts.append(pictures.legend(scenes.CLASS_NAMES, scenes.PALETTE, scenes.WIDTH))
    pictures.write_png(workdir / f"scene_{index}.png", pictures.stack(parts))
    return shares


def _measured(scores: Scores, model: Predictor, image: pictures.Picture) -> Result:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        model.predict(image)
        seconds.append(time.perf_counter() - start)
    return Result(scores, model.parameters, 1e3 * statistics.median(seconds[1:]))


def _line(text: str) -> pictures.Picture:
    """A line of text, black on white."""
    canvas = Image.new("RGB", (scenes.WIDTH, 16), (pictures.BACKGROUND,) * 3)
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(canvas).text((2, 0), text, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)
