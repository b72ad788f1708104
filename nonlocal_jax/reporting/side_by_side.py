"""An image, its label, a prediction and what is wrong with it, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.reporting import pictures
from nonlocal_jax.reporting.pictures import Picture

Mask = UInt8[np.ndarray, "h w"]
Palette = UInt8[np.ndarray, "classes 3"]
WRONG = (230, 30, 60)  # RGB of wrong pixels
WIDEST_LEGEND = 1200  # pixels


class Panels(NamedTuple):
    """The pictures of one image, all of its size.

    Attributes:
      image: as it is.
      label: the image tinted by label.
      prediction: the image tinted by predicted class.
      error: wrong pixels in red, others in grey; pixels without a label are black.
      legend: the colours of the classes in `label` and `prediction`, below each other.
    """

    image: Picture
    label: Picture
    prediction: Picture
    error: Picture
    legend: Picture

    def shrunk(self, longest: int) -> "Panels":
        """The pictures with a longer side of at most `longest` pixels, and the same legend."""
        image, label, prediction, error = (pictures.shrink(each, longest) for each in self[:-1])
        return Panels(image, label, prediction, error, self.legend)


def panels(
    image: Picture, label: Mask, mask: Mask, class_names: Sequence[str], palette: Palette
) -> Panels:
    """The pictures of one image.

    Args:
      image: the image.
      label: of each pixel, 255 for ignored.
      mask: the predicted class of each pixel.
      class_names: one per class.
      palette: RGB of each class.
    """
    tinted = [pictures.overlay(image, classes, palette) for classes in (label, mask)]
    present = np.setdiff1d(np.union1d(label, mask), [IGNORED]).astype(np.uint8)
    colours = pictures.drawn_colours(tinted, [label, mask], present)
    names = [class_names[number] for number in present]
    legend = pictures.legend(names, colours, min(4 * image.shape[1], WIDEST_LEGEND))
    return Panels(image, tinted[0], tinted[1], error(image, label, mask), legend)


def error(image: Picture, label: Mask, mask: Mask) -> Picture:
    """Wrong pixels in red, others in grey; pixels without a label are black."""
    picture: Picture = (pictures.grey(image) // 2 + 40).astype(np.uint8)
    picture[label == IGNORED] = 0
    picture[(label != mask) & (label != IGNORED)] = WRONG
    return picture


def side_by_side(shown: Panels, title: str) -> Picture:
    """All pictures of an image in a row, below a title and above their legend."""
    width = shown.image.shape[1]
    columns = [
        pictures.stack([pictures.caption(name, width), getattr(shown, name)])
        for name in ("image", "label", "prediction", "error")
    ]
    row = pictures.grid(columns, len(columns))
    return pictures.stack([pictures.caption(title, row.shape[1]), row, shown.legend])
