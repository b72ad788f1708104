"""Photometric distortion in uint8, with the same results as MMSegmentation's in float32.

Brightness, contrast, saturation and hue each map one byte to one byte. So each is a table of 256
entries, computed with the float32 arithmetic of the reference.
"""

import dataclasses

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

BRIGHTNESS = 32.0  # grey levels, up or down
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18  # of OpenCV's 180 steps: -18 to 17; the upper end is excluded
_HUE_STEPS = 180

_Table = UInt8[np.ndarray, "256"]
_IDENTITY = np.arange(256, dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """The parameters of one distortion. None leaves a step out.

    Attributes:
      brightness: added to every channel, in grey levels.
      contrast: multiplies every channel.
      contrast_first: whether contrast comes before saturation and hue, or after them.
      saturation: multiplies the saturation.
      hue: added to the hue, in steps of two degrees.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = True
    saturation: float | None = None
    hue: int | None = None


def distort(
    image: UInt8[np.ndarray, "h w 3"], distortion: Distortion
) -> UInt8[np.ndarray, "h w 3"]:
    """Applies brightness, contrast (or later), saturation, hue, contrast to an RGB image."""
    first, last = _IDENTITY, _IDENTITY
    if distortion.brightness is not None:
        first = linear_table(offset=distortion.brightness)
    if distortion.contrast is not None:
        contrast = linear_table(factor=distortion.contrast)
        if distortion.contrast_first:
            first = contrast[first]
        else:
            last = contrast
    image = _look_up(image, first)
    if distortion.saturation is not None:
        image = _change_hsv(image, 1, linear_table(factor=distortion.saturation))
    if distortion.hue is not None:
        shifted = (np.arange(256) + distortion.hue) % _HUE_STEPS
        image = _change_hsv(image, 0, shifted.astype(np.uint8))
    return _look_up(image, last)


def draw(rng: np.random.Generator) -> Distortion:
    """Random parameters. Each step, and early contrast, has probability one half."""

    def half() -> bool:
        return bool(rng.integers(2))

    return Distortion(
        brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS) if half() else None,
        contrast_first=half(),
        contrast=rng.uniform(*CONTRAST) if half() else None,
        saturation=rng.uniform(*SATURATION) if half() else None,
        hue=int(rng.integers(-HUE, HUE)) if half() else None,
    )


def linear_table(factor: float = 1.0, offset: float = 0.0) -> _Table:
    """The table byte -> factor * byte + offset, in float32, clipped and truncated."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    table: _Table = np.clip(values, 0, 255).astype(np.uint8)
    return table


def _look_up(image: UInt8[np.ndarray, "h w 3"], table: _Table) -> UInt8[np.ndarray, "h w 3"]:
    return image if table is _IDENTITY else cv2.LUT(image, table)


def _change_hsv(
    image: UInt8[np.ndarray, "h w 3"], channel: int, table: _Table
) -> UInt8[np.ndarray, "h w 3"]:
    """One step in HSV. The reference converts to HSV and back for each step, with its rounding."""
    tables = np.stack([_IDENTITY] * 3, axis=-1)
    tables[:, channel] = table
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


@dataclasses.dataclass(frozen=True)
class PhotometricDistortion(grain.transforms.RandomMap):  # type: ignore[misc]
    """Distorts an element's image with parameters from `draw`."""

    def random_map(
        self, element: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Returns the element with its image distorted."""
        return {**element, "image": distort(element["image"], draw(rng))}
