"""Pictures: masks over images, legends, contact sheets, attention maps.

All pictures are RGB, uint8 [h, w, 3].
"""

import io
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import write_whole

BACKGROUND = 255  # grey level of sheets and legends: white
_MARGIN = 4  # pixels between pictures
_SWATCH = 16  # pixels, of a legend's colours

Picture = UInt8[np.ndarray, "h w 3"]
AnyPicture = UInt8[np.ndarray, "_ _ 3"]  # of several, which have sizes of their own


def overlay(
    image: Picture,
    mask: UInt8[np.ndarray, "h w"],
    palette: UInt8[np.ndarray, "k 3"],
    opacity: float = 0.5,
) -> Picture:
    """The image tinted by class; ignored pixels (255) stay as they are.

    Args:
      image: the image.
      mask: class of each pixel.
      palette: RGB of each class.
      opacity: 0 shows the image alone, 1 the colours alone.

    Raises:
      UserError: the mask is of another size.
    """
    if mask.shape != image.shape[:2]:
        raise UserError(f"A mask of {mask.shape} cannot lie over an image of {image.shape[:2]}.")
    tinted = cv2.addWeighted(image, 1 - opacity, colourise(mask, palette), opacity, 0)
    return np.where((mask == IGNORED)[..., None], image, tinted)


def colourise(mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"]) -> Picture:
    """The mask in its classes' colours; pixels without a class are black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    picture: Picture = colours[mask]
    return picture


def legend(
    names: Sequence[str], palette: UInt8[np.ndarray, "k 3"], width: int | None = None
) -> Picture:
    """The colour of each class beside its name, in as many columns as fit into `width`.

    Args:
      names: of the classes shown.
      palette: their colours, in the same order.
      width: in pixels; None for one column.
    """
    font = ImageFont.load_default(size=12)
    column = max((int(font.getlength(name)) for name in names), default=0) + 3 * _SWATCH
    columns = max((width or column) // column, 1)
    rows = math.ceil(len(names) / columns)
    size = (max(width or 0, columns * column), max(rows, 1) * (_SWATCH + _MARGIN) + _MARGIN)
    canvas = Image.new("RGB", size, (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(canvas)
    for number, (name, colour) in enumerate(zip(names, palette, strict=True)):
        left = number // rows * column + _MARGIN
        top = number % rows * (_SWATCH + _MARGIN) + _MARGIN
        box = (left, top, left + _SWATCH - 1, top + _SWATCH - 1)
        draw.rectangle(box, fill=tuple(int(v) for v in colour), outline=(0, 0, 0))
        draw.text((left + _SWATCH + _MARGIN, top), name, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


def grid(images: Sequence[AnyPicture], columns: int | None = None) -> Picture:
    """Pictures in rows. Smaller ones are at the top left of their cell.

    Args:
      images: at least one, of any sizes.
      columns: number of columns; None for about as many as rows.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height = max(image.shape[0] for image in images) + _MARGIN
    width = max(image.shape[1] for image in images) + _MARGIN
    sheet = np.full((rows * height + _MARGIN, columns * width + _MARGIN, 3), BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        top = number // columns * height + _MARGIN
        left = number % columns * width + _MARGIN
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def stack(pictures: Sequence[AnyPicture]) -> Picture:
    """Pictures one below the other. Narrower ones are filled up with the background."""
    width = max(picture.shape[1] for picture in pictures)
    padded = []
    for picture in pictures:
        row = np.full((picture.shape[0], width, 3), BACKGROUND, np.uint8)
        row[:, : picture.shape[1]] = picture
        padded.append(row)
    return np.concatenate(padded)


def attention_overlay(
    image: Picture,
    attention: Float[np.ndarray, "h_a w_a"],
    point: tuple[int, int] | None,
    *,
    peak: float | None = None,
) -> Picture:
    """What one pixel attends to: bright by weight, over the image in dark grey.

    Args:
      image: what was looked at.
      attention: weights over the positions of the feature map, not negative.
      point: row and column of the attending pixel in the image; a cross marks it. None: no cross.
      peak: the weight that is brightest; by default the largest.
    """
    height, width = image.shape[:2]
    peak = max(float(np.max(attention)), 1e-12) if peak is None else peak
    relative = np.asarray(attention, np.float32) / peak
    enlarged = cv2.resize(relative, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = np.clip(enlarged * 255, 0, 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = np.maximum(grey // 2, heat)
    if point is None:
        return picture
    size = max(height, width) // 40 + 3
    centre = (point[1], point[0])
    cv2.drawMarker(picture, centre, (0, 0, 0), cv2.MARKER_CROSS, size + 2, thickness=3)
    cv2.drawMarker(picture, centre, (0, 255, 255), cv2.MARKER_CROSS, size, thickness=1)
    return picture


def inmost(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Row and column of the pixel of `mask` that is farthest from its border."""
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def shrink(image: Picture, longest: int) -> AnyPicture:
    """The image with its longer side at most `longest` pixels."""
    factor = longest / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def write_png(path: str | os.PathLike[str], picture: Picture) -> None:
    """Writes a picture, making its folder.

    Raises:
      UserError: it cannot be written there.
    """
    save_png(path, Image.fromarray(picture))


def save_png(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Writes a picture of any mode; see `write_png`."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    write(path, encoded.getvalue())


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file whole, making its folder.

    Raises:
      UserError: it cannot be written there.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
