"""What the page holds of one picture or clip, as values for JSON."""

import base64
import dataclasses
import io
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.page.packing import base64_of, packed
from nonlocal_jax.exporting.page.quantise import Stored, quantise
from nonlocal_jax.models.attention_factors import AttentionFactors, Kind
from nonlocal_jax.reporting import pictures

LONGEST = 1280  # pixels, of the longer side of a picture on the page
JPEG_QUALITY = 88
# Where the page's weights are compared with the network's, as shares of frames, rows and columns.
CHECKED = ((0.2, 0.25, 0.25), (0.4, 0.75, 0.3), (0.6, 0.3, 0.75), (0.8, 0.75, 0.8))

Point = tuple[int, int, int]
Attend = Callable[[Point], Float[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibit:
    """A picture or clip with its prediction.

    Attributes:
      path: of the file.
      frames: what was seen; a picture is one frame.
      factors: queries and keys of its attention, without a batch axis.
      attend: the network's own weights of a point, to compare with.
      point: frame, row and column of the point that is shown first.
      mask: class of each pixel of a picture; None for a clip.
      top: names and probabilities of the most probable classes of a clip; None for a picture.
    """

    path: pathlib.Path
    frames: UInt8[np.ndarray, "t h w 3"]
    factors: AttentionFactors
    attend: Attend
    point: Point
    mask: UInt8[np.ndarray, "h w"] | None = None
    top: Sequence[tuple[str, float]] | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A picture's values.

    Attributes:
      values: for JSON.
      error: the largest difference between a weight of the page and one of the network.
      points: how many points were compared.
      bits: of the integers.
      kind: how weights are computed: models/attention_factors.py.
    """

    values: dict[str, object]
    error: float
    points: int
    bits: int
    kind: Kind


def make_entry(exhibit: Exhibit) -> Entry:
    """The values of a picture or clip, compared with the network at some points.

    Raises:
      UserError: queries or keys are not finite.
    """
    for part in (exhibit.factors.query, exhibit.factors.key):
        if not np.isfinite(part).all():
            raise UserError(
                f"Queries or keys for {exhibit.path} are not finite: the checkpoint holds NaN or "
                "infinite values."
            )
    stored = quantise(exhibit.factors)
    sizes = exhibit.frames.shape[:3]
    checked = [exhibit.point, *(_place(shares, sizes) for shares in CHECKED)]
    error = max(difference(stored, exhibit.attend(point), point, sizes) for point in checked)
    picture, columns, shown = _sheet(exhibit.frames)
    values = {
        "name": printable(exhibit.path.name),
        "frames": sizes[0],
        "height": sizes[1],
        "width": sizes[2],
        "picture": picture,
        "columns": columns,
        "shown": shown,
        "mask": None if exhibit.mask is None else packed(_resized(exhibit.mask, shown).tobytes()),
        "top": None if exhibit.top is None else [[n, round(p, 6)] for n, p in exhibit.top],
        "point": exhibit.point,
        **_attention_values(stored),
    }
    return Entry(values, error, len(checked), stored.bits, stored.kind)


def difference(
    stored: Stored, expected: Float[np.ndarray, "..."], point: Point, sizes: tuple[int, ...]
) -> float:
    """The largest difference between the page's weights of a point and those of the network.

    Args:
      stored: what the page holds.
      expected: the weights of the network.
      point: frame, row and column.
      sizes: frames, rows and columns of what is shown.
    """
    found = stored.weights(np.array([position_at(point, sizes, stored.space)]))[0]
    return float(np.abs(found - expected.reshape(-1)).max())


def position_at(point: Point, sizes: tuple[int, ...], space: tuple[int, ...]) -> int:
    """The flat index of the position that a pixel is in, in single precision as in the network."""
    relative = (np.array(point, np.float32) + np.float32(0.5)) / np.array(sizes, np.float32)
    position = np.floor(relative * np.array(space, np.float32)).astype(int)
    return int(np.ravel_multi_index(tuple(position), space))


def printable(text: str) -> str:
    """A file's name without what UTF-8 can't hold."""
    return os.fsencode(text).decode(errors="replace")


def _attention_values(stored: Stored) -> dict[str, object]:
    return {
        "kind": stored.kind,
        "space": stored.space,
        "keySpace": stored.key_space,
        "channels": stored.query.values.shape[1],
        "bits": stored.bits,
        "query": base64_of(stored.query.values),
        "queryScales": base64_of(stored.query.scales),
        "key": base64_of(stored.key.values),
        "keyScales": base64_of(stored.key.scales),
        "unary": None if stored.unary is None else base64_of(stored.unary),
    }


def _place(shares: tuple[float, ...], sizes: tuple[int, ...]) -> Point:
    frame, row, column = (int(share * size) for share, size in zip(shares, sizes, strict=True))
    return frame, row, column


def _sheet(frames: UInt8[np.ndarray, "t h w 3"]) -> tuple[str, int, tuple[int, int]]:
    """Frames in a grid as a data URL, its columns, and height and width of a frame in it.

    It is a PNG or a JPEG, whichever is smaller.
    """
    small = [pictures.shrink(frame, LONGEST) for frame in frames]
    height, width = small[0].shape[:2]
    columns = math.ceil(math.sqrt(len(small)))
    rows = math.ceil(len(small) / columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, frame in enumerate(small):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height, left : left + width] = frame
    options: dict[str, dict[str, int | bool]] = {
        "jpeg": {"quality": JPEG_QUALITY, "optimize": True},
        "png": {"optimize": True},
    }
    urls = []
    for kind, settings in options.items():
        encoded = io.BytesIO()
        Image.fromarray(sheet).save(encoded, kind, **settings)
        content = base64.b64encode(encoded.getvalue()).decode()
        urls.append(f"data:image/{kind};base64,{content}")
    return min(urls, key=len), columns, (height, width)


def _resized(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "a b"]:
    resized: np.ndarray = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized
