"""Decodes images and masks, bit-equal to OpenCV (images) and Pillow (masks).

simplejpeg reads JPEGs, and kornia-rs reads 8-bit PNGs. They give the same values as OpenCV in less
time (a third, for a 2048x1024 PNG). OpenCV or Pillow read everything else.

OpenCV and Pillow return something for many damaged files. So simplejpeg has to read every JPEG
without a warning, a PNG's checksums are verified, and Pillow has to read what OpenCV reads. What is
left is damage that a format cannot show: JPEG, WebP, TIFF and BMP have no checksums.
"""

import contextlib
import io
import os
import pathlib
import struct
import zlib

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from kornia_rs import io as rust_png
from PIL import Image, UnidentifiedImageError

from nonlocal_jax.config.schema import MOST_PIXELS
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import opencv

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_GREY, _RGB, _INDEXED = 0, 2, 3  # PNG colour types
# Pillow spreads grey values of few bits over 0 to 255: by this factor.
_SPREAD = {(2, _GREY): 85, (4, _GREY): 17}
_PNG_EXIF, _JPEG_EXIF = b"eXIf", b"Exif\0\0"
_HEADER_BYTES = 1 << 16  # the EXIF orientation
_ORIENTATION, _UPRIGHT = 0x0112, 1  # EXIF's tag, and its value for an image that is not rotated
_TURNED = (5, 6, 7, 8)  # its values for images whose height and width are exchanged
_KNOWN = ("JPEG", "MPO", "WEBP", "BMP")  # formats whose header tells how OpenCV turns an image
_PILLOWS_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,  # EXIF data that are cut short
)


class TooManyPixels(UserError):
    """An image is larger than the limit on its pixels."""


def read_image(
    path: str | os.PathLike[str], most_pixels: int = MOST_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a file as RGB; see `decode_image`.

    Raises:
      UserError: it cannot be read or decoded.
    """
    try:
        encoded = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return decode_image(encoded, str(path), most_pixels)


def decode_image(
    encoded: bytes, name: str, most_pixels: int = MOST_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to RGB, rotated by its EXIF orientation.

    Args:
      encoded: the file's bytes, JPEG, PNG or another format that OpenCV reads.
      name: its name in errors.
      most_pixels: an image with more is refused before it is decoded.

    Raises:
      UserError: it cannot be decoded, is damaged, or has too many pixels (`TooManyPixels`).
    """
    _check_pixels(encoded, name, most_pixels)
    image = _fast_image(encoded, name)
    if image is None and encoded:
        with opencv.silent(), contextlib.suppress(cv2.error):  # more pixels than it takes, 2^30
            image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is not None and _is_damaged(encoded):
            image = None
    if image is None:
        raise UserError(f"{name} cannot be decoded as an image: {_remedy(encoded)}")
    return image


def decode_label(
    encoded: bytes, name: str, most_pixels: int = MOST_PIXELS
) -> UInt8[np.ndarray, "h w"]:
    """Decodes a mask to the numbers in the file: a PNG with a palette gives indices, not colours.

    Args:
      encoded: the file's bytes.
      name: its name in errors.
      most_pixels: a mask with more is refused before it is decoded.

    Raises:
      UserError: it cannot be decoded, is damaged, has too many pixels, is a colour picture, or has
        numbers above 255.
    """
    _check_pixels(encoded, name, most_pixels)
    png = _png_header(encoded)
    if png is not None and png[2:] in ((8, _GREY), (8, _INDEXED)):
        try:
            grey: UInt8[np.ndarray, "h w 1"]
            grey = rust_png.decode_image_png_u8(encoded, png[:2], "mono")
            return grey[..., 0]
        except Exception:  # its errors have no class of their own; Pillow's follow
            pass
    try:
        if is_png(encoded) and not _checksums_hold(encoded):
            raise OSError("a checksum does not hold")
        label = np.asarray(_open(encoded))
        if png is not None and png[2:] in _SPREAD:
            label = label // _SPREAD[png[2:]]
    except _PILLOWS_ERRORS as error:
        raise UserError(f"{name} cannot be decoded as a mask: {_remedy(encoded)}") from error
    if label.ndim != 2:
        raise UserError(
            f"{name} is a colour picture with {label.shape[-1]} channels; a mask holds one class "
            "index a pixel. For a folder of your own, say "
            '"masks": "colours" in classes.json, with the colour of each class in "palette"; else '
            "convert the colours to indices."
        )
    if label.max(initial=0) > 255:
        raise UserError(f"{name} holds {label.max()}; a mask holds class indices of 0 to 255.")
    return label.astype(np.uint8)


def decode_colours(
    encoded: bytes, name: str, most_pixels: int = MOST_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a mask to colours, by its palette if it has one; see `decode_label`.

    Raises:
      UserError: it cannot be decoded, is damaged, or has too many pixels.
    """
    _check_pixels(encoded, name, most_pixels)
    try:
        if is_png(encoded) and not _checksums_hold(encoded):
            raise OSError("a checksum does not hold")
        return np.asarray(_open(encoded).convert("RGB"))
    except _PILLOWS_ERRORS as error:
        raise UserError(f"{name} cannot be decoded as a mask: {_remedy(encoded)}") from error


def image_size(encoded: bytes, name: str, most_pixels: int = MOST_PIXELS) -> tuple[int, int]:
    """Height and width of an encoded image, from its header if that is enough.

    Args:
      encoded: the file's bytes.
      name: its name in errors.
      most_pixels: an image with more is refused.

    Raises:
      UserError: it cannot be decoded, or has too many pixels.
    """
    height, width = _check_pixels(encoded, name, most_pixels)
    turned = _is_turned(encoded) if height else None
    if turned is None:
        height, width = decode_image(encoded, name, most_pixels).shape[:2]
    return (width, height) if turned else (height, width)


def is_png(encoded: bytes) -> bool:
    """Whether an encoded image is a PNG."""
    return encoded.startswith(_PNG_SIGNATURE)


def _fast_image(encoded: bytes, name: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """The image if a fast decoder can read it, else None. OpenCV rotates by EXIF orientation.

    Raises:
      UserError: it is a JPEG that is damaged inside.
    """
    header = encoded[:_HEADER_BYTES]
    if encoded.startswith(_JPEG_SIGNATURE):
        image = _jpeg(encoded, name)
        return image if _JPEG_EXIF not in header or _is_upright(encoded) else None
    png = _png_header(encoded)
    if png is None or png[2:] != (8, _RGB) or _PNG_EXIF in header:
        return None
    try:
        decoded: UInt8[np.ndarray, "h w 3"]
        decoded = rust_png.decode_image_png_u8(encoded, png[:2], "rgb")
        return decoded
    except Exception:  # kornia-rs raises plain exceptions; OpenCV tries the file next
        return None


def _jpeg(encoded: bytes, name: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """A JPEG without rotation; None if simplejpeg cannot read such a file.

    Raises:
      UserError: it is damaged. The decoder warns and goes on, with wrong pixels.
    """
    try:
        image: UInt8[np.ndarray, "h w 3"] = simplejpeg.decode_jpeg(encoded, colorspace="RGB")
        return image
    except ValueError as error:
        warning = str(error)
    try:
        simplejpeg.decode_jpeg(encoded, colorspace="RGB", strict=False)
    except ValueError:
        return None
    raise UserError(
        f"{name} cannot be decoded as an image: it is damaged ({warning.rstrip('.')}), and pixels "
        "would be wrong. Copy or download it again, take it out of the data set, or skip it with "
        "--config.data.on_bad_example=skip."
    )


def _is_upright(encoded: bytes) -> bool:
    """Whether the EXIF data of an image say that it is not rotated."""
    try:
        return bool(_open(encoded).getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT)
    except _PILLOWS_ERRORS:
        return False


def _is_turned(encoded: bytes) -> bool | None:
    """Whether OpenCV exchanges height and width, as EXIF data say; None if that isn't known."""
    header = encoded[:_HEADER_BYTES]
    if is_png(encoded) and _PNG_EXIF not in header:
        return False
    if encoded.startswith(_JPEG_SIGNATURE) and _JPEG_EXIF not in header:
        return False
    with contextlib.suppress(*_PILLOWS_ERRORS):
        image, exif = _open(encoded), Image.Exif()
        exif.load(image.info.get("exif", b""))  # `getexif` reads XMP, too, and OpenCV does not
        if image.format in _KNOWN:
            return exif.get(_ORIENTATION, _UPRIGHT) in _TURNED
    return None


def _is_damaged(encoded: bytes) -> bool:
    """Whether a file that OpenCV could decode is damaged, as far as its format shows it."""
    if is_png(encoded):
        return not _checksums_hold(encoded)
    try:
        _open(encoded).load()
    except UnidentifiedImageError:  # a format that OpenCV knows, and Pillow does not
        return False
    except _PILLOWS_ERRORS:
        return True
    return False


def _checksums_hold(png: bytes) -> bool:
    """Whether every chunk of a PNG has its checksum, up to the last one."""
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        kind, checksum = png[at + 4 : at + 8], png[end - 4 : end]
        if end > len(png) or zlib.crc32(png[at + 4 : end - 4]) != int.from_bytes(checksum, "big"):
            return False
        at = end
    return True


def _check_pixels(encoded: bytes, name: str, most: int) -> tuple[int, int]:
    """Returns the stated size, or raises a UserError if it is too large. Nothing is decoded."""
    height, width = stated_size(encoded, name)
    if width * height > most:
        raise TooManyPixels(
            f"{name} is {width}x{height}, {width * height / 1e6:,.0f} million pixels, more than "
            f"config.data.max_pixels={most} allows. Make it smaller, or raise the limit."
        )
    return height, width


def stated_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Height and width in a header, without rotation; zeros if there is no header to be read.

    Raises:
      UserError: it has more pixels than Pillow reads, and is neither PNG nor JPEG.
    """
    if (png := _png_header(encoded)) is not None:
        return png[:2]
    with contextlib.suppress(*_PILLOWS_ERRORS):  # simplejpeg raises ValueErrors, too
        if encoded.startswith(_JPEG_SIGNATURE):
            height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
            return height, width
        try:
            width, height = _open(encoded).size
            return height, width
        except Image.DecompressionBombError as error:
            raise TooManyPixels(f"{name} has too many pixels: {error}. Make it smaller.") from error
    return 0, 0


def _open(encoded: bytes) -> Image.Image:
    """The image as Pillow sees it; its pixels are not read yet."""
    return Image.open(io.BytesIO(encoded))


def _png_header(encoded: bytes) -> tuple[int, int, int, int] | None:
    """Height, width, bit depth and colour type of a PNG; None for another format or if damaged."""
    if len(encoded) < 33 or not is_png(encoded):
        return None
    if zlib.crc32(encoded[12:29]) != int.from_bytes(encoded[29:33], "big"):
        return None
    width = int.from_bytes(encoded[16:20], "big")
    height = int.from_bytes(encoded[20:24], "big")
    if not height * width:
        return None
    return height, width, encoded[24], encoded[25]


def _remedy(encoded: bytes) -> str:
    if not encoded:
        return "the file is empty. Copy or download it again."
    return (
        f"its {len(encoded)} bytes are damaged, cut short, or of another format. "
        "Copy or download it again, take it out of the data set, or skip it with "
        "--config.data.on_bad_example=skip."
    )
