"""Training augmentation and test-time resizing, as MMSegmentation 0.30 does them, in uint8.

Every random transform is a small frozen dataclass that draws its parameters from the generator it
is given and hands them to a plain function of the same meaning. Nothing becomes a float before the
device: batches are bytes, and the network's first step normalises them. Work is saved where the
result stays the same to the bit:

- Resize and crop are one step. OpenCV computes an output pixel from its position and the scale
  alone, so the part of the resized image from its origin to the crop's far corner is all that is
  computed, and labels are gathered for the crop alone.
- Brightness and contrast are table look-ups, see `photometric.py`.
"""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import grain
import numpy as np
from jaxtyping import Int64, UInt8

from nonlocal_jax.config.schema import IGNORED

Image = UInt8[np.ndarray, "h w 3"]
Label = UInt8[np.ndarray, "h w"]
NewImage = UInt8[np.ndarray, "H W 3"]
NewLabel = UInt8[np.ndarray, "H W"]
Element = dict[str, np.ndarray]  # image: uint8 [h w 3] RGB, label: uint8 [h w]
Box = tuple[int, int, int, int]  # top, left, height, width

CROP_REDRAWS = 10


def fit_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same aspect within `scale`, whose longer side bounds the longer side.

    Args:
      height: of the image.
      width: of the image.
      scale: bounds of the two sides, in either order.
    """
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


def scales(scale: tuple[int, int], ratios: Sequence[float]) -> list[tuple[int, int]]:
    """`scale` times each ratio, cut to int."""
    return [(int(scale[0] * ratio), int(scale[1] * ratio)) for ratio in ratios]


def test_sizes(
    height: int, width: int, scale: tuple[int, int], ratios: Sequence[float]
) -> list[tuple[int, int]]:
    """The sizes an image is evaluated at: fitted into `scale` times each ratio."""
    return [fit_size(height, width, bounds) for bounds in scales(scale, ratios)]


def resize_image(image: Image, size: tuple[int, int]) -> NewImage:
    """Bilinear, to height and width `size`."""
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def resize_crop_image(image: Image, size: tuple[int, int], box: Box) -> NewImage:
    """`resize_image(image, size)` cut to `box`, without computing what lies beyond it.

    Bit-equal: given a scale instead of a size, OpenCV interpolates the same way from the origin on,
    whatever lies to the right and below (two pixels cover the interpolation's reach).
    """
    height, width = image.shape[:2]
    top, left, box_height, box_width = box
    scale_y, scale_x = size[0] / height, size[1] / width
    rows = min(math.ceil((top + box_height + 0.5) / scale_y) + 2, height)
    columns = min(math.ceil((left + box_width + 0.5) / scale_x) + 2, width)
    resized = cv2.resize(
        image[:rows, :columns], None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR
    )
    return resized[top : top + box_height, left : left + box_width]


def resize_crop_label(label: Label, size: tuple[int, int], box: Box) -> NewLabel:
    """Nearest neighbour to `size`, cut to `box`; bit-equal to OpenCV's resize then crop."""
    top, left, box_height, box_width = box
    rows = _nearest(label.shape[0], size[0], top, box_height)
    columns = _nearest(label.shape[1], size[1], left, box_width)
    return label.take(rows, axis=0).take(columns, axis=1)


def _nearest(source: int, target: int, start: int, count: int) -> Int64[np.ndarray, "count"]:
    """OpenCV's source positions of `count` target positions from `start` on."""
    positions = np.arange(start, start + count) * (1 / (target / source))
    return np.minimum(positions.astype(np.int64), source - 1)  # positive: the cast is a floor


def class_fraction(label: Label) -> float:
    """The commonest class's share of the labelled pixels; 1.0 for one class or none."""
    counts = cv2.calcHist([label], [0], None, [IGNORED], [0, IGNORED]).ravel()  # without 255
    labelled = float(counts.sum(dtype=np.float64))
    return float(counts.max()) / labelled if labelled else 1.0


def flip(element: Element, axis: int) -> Element:
    """Mirrors image and label: axis 1 left to right, axis 0 top to bottom."""
    image, label = (cv2.flip(element[key], axis) for key in ("image", "label"))
    return {**element, "image": image, "label": label}


def rotate(element: Element, degrees: float) -> Element:
    """Turns image and label clockwise about their centre; corners become black and ignored."""
    height, width = element["label"].shape
    matrix = cv2.getRotationMatrix2D(((width - 1) * 0.5, (height - 1) * 0.5), -degrees, 1.0)
    image = cv2.warpAffine(element["image"], matrix, (width, height), flags=cv2.INTER_LINEAR)
    label = cv2.warpAffine(
        element["label"], matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORED
    )
    return {**element, "image": image, "label": label}


def cut_out(element: Element, boxes: Sequence[Box]) -> Element:
    """Blackens boxes of the image; their labels stay."""
    image = element["image"].copy()
    for top, left, height, width in boxes:
        image[top : top + height, left : left + width] = 0
    return {**element, "image": image}


def pad(element: Element, size: tuple[int, int]) -> Element:
    """Grows image and label to the right and below, to height and width `size`.

    Returns:
      image (0 in the padding), label (255 in the padding) and `size`, int32 [2]: height and width
      of the part that is no padding. The reference pads with 0 *after* normalisation, so the
      device sets the image's padding once it has normalised.
    """
    image, label = element["image"], element["label"]
    height, width = label.shape
    if (height, width) != size:
        padded = np.zeros((*size, 3), np.uint8)
        padded[:height, :width] = image
        image = padded
        padded = np.full(size, IGNORED, np.uint8)
        padded[:height, :width] = label
        label = padded
    return {"image": image, "label": label, "size": np.array([height, width], np.int32)}


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(grain.transforms.RandomMap):  # type: ignore[misc]
    """Keep-ratio resize to a random scale, then a random crop; smaller images stay smaller.

    Up to ten times another place is drawn while one class holds `max_class_fraction` or more of
    the labelled pixels; the eleventh is taken as it is.

    Attributes:
      scale: long and short side that ratio 1 fits an image into.
      ratio_range: the ratio is uniform between these.
      crop_size: height and width.
      max_class_fraction: 1 or more for no redraws.
    """

    scale: tuple[int, int]
    ratio_range: tuple[float, float]
    crop_size: tuple[int, int]
    max_class_fraction: float = 0.75

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element with image and label resized and cropped."""
        height, width = element["label"].shape
        size = self.draw_size(height, width, rng)
        box, label = self.draw_box(element["label"], size, rng)
        image = resize_crop_image(element["image"], size, box)
        return {**element, "image": image, "label": label}

    def draw_size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        """Height and width after the resize; each side of the drawn scale is cut to int."""
        low, high = self.ratio_range
        ratio = rng.random() * (high - low) + low
        return fit_size(height, width, (int(self.scale[0] * ratio), int(self.scale[1] * ratio)))

    def draw_box(
        self, label: Label, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Box, NewLabel]:
        """A place for the crop in an image resized to `size`, and the label there."""
        height, width = (min(c, s) for c, s in zip(self.crop_size, size, strict=True))
        for draw in range(CROP_REDRAWS + 1):
            top = int(rng.integers(size[0] - height + 1))
            left = int(rng.integers(size[1] - width + 1))
            cropped = resize_crop_label(label, size, (top, left, height, width))
            if draw == CROP_REDRAWS or self.max_class_fraction >= 1:
                break
            if class_fraction(cropped) < self.max_class_fraction:
                break
        return (top, left, height, width), cropped


@dataclasses.dataclass(frozen=True)
class RandomFlip(grain.transforms.RandomMap):  # type: ignore[misc]
    """Mirrors with `probability` along `axis`: 1 left to right, 0 top to bottom."""

    probability: float
    axis: int = 1

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element, mirrored or not."""
        return flip(element, self.axis) if rng.random() < self.probability else element


@dataclasses.dataclass(frozen=True)
class RandomRotate(grain.transforms.RandomMap):  # type: ignore[misc]
    """Turns with `probability` by an angle uniform between -`degrees` and `degrees`."""

    probability: float
    degrees: float

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element, turned or not."""
        if rng.random() >= self.probability:
            return element
        return rotate(element, rng.uniform(-self.degrees, self.degrees))


@dataclasses.dataclass(frozen=True)
class RandomCutout(grain.transforms.RandomMap):  # type: ignore[misc]
    """Blackens `holes` boxes of height and width `size` with `probability`.

    A box's top left corner is uniform over the image, so it may reach beyond the edge.
    """

    probability: float
    holes: int
    size: tuple[int, int]

    def random_map(self, element: Element, rng: np.random.Generator) -> Element:
        """Returns the element, with holes in its image or not."""
        if rng.random() >= self.probability:
            return element
        height, width = element["label"].shape
        corners = [(int(rng.integers(height)), int(rng.integers(width))) for _ in range(self.holes)]
        return cut_out(element, [(*corner, *self.size) for corner in corners])


@dataclasses.dataclass(frozen=True)
class Pad(grain.transforms.Map):  # type: ignore[misc]
    """Pads to height and width `size`, see `pad`."""

    size: tuple[int, int]

    def map(self, element: Element) -> Element:
        """Returns image, label and the unpadded size."""
        return pad(element, self.size)
