"""Pictures: masks over images, legends, contact sheets.

All pictures are RGB, uint8 [h, w, 3].
"""

import io
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime.files import write_whole

BACKGROUND = 255  # grey level of sheets and legends: white
_MARGIN = 4  # pixels between pictures
_SWATCH = 16  # pixels, of a legend's colours
_ROWS = 64  # of a picture that are counted at once, because `bincount` takes 16 bytes a value

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


def grey(image: Picture) -> Picture:
    """The image in grey, in three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def heat(levels: UInt8[np.ndarray, "h w"]) -> Picture:
    """The colours of the map "inferno" for levels from 0 to 255."""
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def drawn_colours(
    tinted: Sequence[AnyPicture],
    masks: Sequence[UInt8[np.ndarray, "_ _"]],
    labels: UInt8[np.ndarray, "k"],
) -> UInt8[np.ndarray, "k 3"]:
    """The mean colour that each class has in some pictures: what their legend shows.

    Args:
      tinted: what `overlay` returned.
      masks: of the same sizes.
      labels: the classes; each is in one of the masks.
    """
    counts, sums = np.zeros(256), np.zeros((3, 256))
    for picture, mask in zip(tinted, masks, strict=True):
        for top in range(0, len(mask), _ROWS):
            classes = mask[top : top + _ROWS].ravel()
            channels = picture[top : top + _ROWS].reshape(-1, 3).T
            counts += np.bincount(classes, minlength=256)
            sums += [np.bincount(classes, channel, minlength=256) for channel in channels]
    means = sums.T[labels] / counts[labels, None]
    return np.asarray(means.round(), np.uint8)


def caption(text: str, width: int) -> Picture:
    """A line of text, black on white, at least `width` pixels wide."""
    font = ImageFont.load_default(size=12)
    size = (max(width, int(font.getlength(text)) + _MARGIN), _SWATCH)
    canvas = Image.new("RGB", size, (BACKGROUND,) * 3)
    ImageDraw.Draw(canvas).text((2, 0), text, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


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


def inmost(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Row and column of the pixel of `mask` that is farthest from its border, or the picture's."""
    framed = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
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
    write(path, encode(image, "PNG"))


def encode(image: Image.Image, kind: str) -> bytes:
    """The bytes of a file with a picture; `kind` is "PNG" or "JPEG"."""
    encoded = io.BytesIO()
    image.save(encoded, kind)
    return encoded.getvalue()


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file whole, making its folder.

    Raises:
      UserError: it cannot be written there.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
