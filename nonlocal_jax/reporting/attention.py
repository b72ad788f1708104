"""Pictures of what a pixel attends to.

A colour stands for a multiple of the uniform weight, on a logarithmic scale that is the same in
every picture. So a uniform map has one dull colour, and only a peaked one is bright.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from nonlocal_jax.reporting import pictures
from nonlocal_jax.reporting.pictures import Picture

Weights = Float[np.ndarray, "h_a w_a"]
LEAST, MOST = -2, 6  # of the scale: powers of two of the uniform weight
OPACITY = 0.75  # of the colours, over the image in grey
_BAR, _TEXT, _MARGIN = 10, 16, 4  # pixels: heights of the bar and of a line, and the border
_NARROWEST = 260  # pixels that the bar and its numbers need


class Peak(NamedTuple):
    """How peaked a map is.

    Attributes:
      multiple: the largest weight, in uniform ones; 1 for a uniform map.
      half: the smallest share of the places that has half of the weight; 0.5 for a uniform map.
    """

    multiple: float
    half: float

    def __str__(self) -> str:
        return f"up to {self.multiple:.3g}x uniform; half of it on {100 * self.half:.2g}% of places"


def peak(weights: Weights) -> Peak:
    """How peaked a map of weights is. Weights below 0 count as 0."""
    ordered = np.sort(np.maximum(np.asarray(weights, np.float64), 0).ravel())[::-1]
    total = ordered.sum()
    if total == 0:
        return Peak(1.0, 0.5)
    places = int(np.searchsorted(np.cumsum(ordered), total / 2)) + 1
    return Peak(float(ordered[0] * ordered.size / total), places / ordered.size)


def overlay(
    image: Picture,
    weights: Weights,
    point: tuple[int, int] | None,
    *,
    uniform: float | None = None,
) -> Picture:
    """What one pixel attends to, in the colours of `bar`, over the image in grey.

    Args:
      image: what was looked at.
      weights: over the positions of the feature map. Weights below 0 count as 0.
      point: row and column of the attending pixel in the image; a cross marks it. None: no cross.
      uniform: the weight that each position would have if all had the same; by default the mean.
    """
    height, width = image.shape[:2]
    weights = np.maximum(np.asarray(weights, np.float32), 0)
    uniform = float(weights.mean()) if uniform is None else uniform
    multiples = weights / uniform if uniform > 0 else np.ones_like(weights)
    enlarged = cv2.resize(multiples, (width, height), interpolation=cv2.INTER_LINEAR)
    picture = _tinted(_colours(enlarged), pictures.grey(image))
    if point is None:
        return picture
    size = max(height, width) // 40 + 3
    centre = (point[1], point[0])
    cv2.drawMarker(picture, centre, (0, 0, 0), cv2.MARKER_CROSS, size + 2, thickness=3)
    cv2.drawMarker(picture, centre, (0, 255, 255), cv2.MARKER_CROSS, size, thickness=1)
    return picture


def bar(image: Picture, width: int | None = None) -> Picture:
    """The scale of colours with its numbers, as drawn over the mean grey of an image.

    Args:
      image: what was looked at.
      width: in pixels, by default that of the image; the scale may be wider.
    """
    width = max(width or image.shape[1], _NARROWEST)
    inner = width - 2 * _MARGIN
    powers = np.linspace(LEAST, MOST, inner, dtype=np.float32)
    row = np.broadcast_to(2.0**powers, (_BAR, inner)).astype(np.float32)
    grey = np.full((_BAR, inner, 3), round(float(image.mean())), np.uint8)
    canvas = np.full((_BAR + _TEXT + 2 * _MARGIN, width, 3), pictures.BACKGROUND, np.uint8)
    canvas[_MARGIN : _MARGIN + _BAR, _MARGIN : _MARGIN + inner] = _tinted(_colours(row), grey)
    drawn = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=11)
    for power in range(LEAST, MOST + 1, 2):
        text = "uniform" if power == 0 else f"{2**power}x" if power > 0 else f"1/{2**-power}x"
        place = _MARGIN + (power - LEAST) / (MOST - LEAST) * inner
        left = place - font.getlength(text) * (power - LEAST) / (MOST - LEAST)
        draw.text((left, _BAR + _MARGIN + 1), text, fill=(0, 0, 0), font=font)
    return np.asarray(drawn)


def picture(image: Picture, weights: Weights, point: tuple[int, int]) -> Picture:
    """The overlay of an image, above the scale of its colours and how peaked it is."""
    told = pictures.caption(f"+ attends {peak(weights)}", image.shape[1])
    return pictures.stack([overlay(image, weights, point), bar(image), told])


def _colours(multiples: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The colour of each multiple of the uniform weight."""
    powers = np.log2(np.maximum(multiples, 2.0**LEAST))
    return pictures.heat(np.clip((powers - LEAST) / (MOST - LEAST) * 255, 0, 255).astype(np.uint8))


def _tinted(colours: Picture, grey: Picture) -> Picture:
    mixed: Picture = cv2.addWeighted(colours, OPACITY, grey, 1 - OPACITY, 0)
    return mixed
