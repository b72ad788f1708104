"""Masks drawn from polygons, as COCO's JSON has them.

A pixel belongs to a polygon if its centre lies inside, by the even-odd rule. Of objects that
overlap, the last one in the file is on top.
"""

import collections
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError

_FARTHEST = 1e9  # pixels
_MISTAKES = (ValueError, TypeError, OverflowError, RecursionError)


class Drawing(NamedTuple):
    """The objects of an image.

    Attributes:
      height, width: of the image.
      outside: the label of pixels in no object.
      objects: label, and what it covers: a list of polygons [x0, y0, x1, y1, ...], or COCO's run
        lengths {"size": [h, w], "counts": [...]}.
    """

    height: int
    width: int
    outside: int
    objects: list[tuple[int, Any]]


def read(path: pathlib.Path, names: Sequence[str], outside: int | None) -> dict[str, bytes]:
    """The drawings in a file, by the path of their image; `draw` takes the bytes.

    Args:
      path: JSON with "images", "annotations" and "categories", as COCO has it.
      names: of the classes. A category of another name is an error.
      outside: the label of pixels in no object; None if they are ignored.

    Raises:
      UserError: the file is missing, or not of this form.
    """
    try:
        content = json.loads(path.read_bytes())
        _check_unique(content)
        labels = dict(_labels(content["categories"], names, path))
        around = IGNORED if outside is None else outside
        drawings = {
            image["id"]: Drawing(_length(image["height"]), _length(image["width"]), around, [])
            for image in content["images"]
        }
        for annotation in content["annotations"]:
            found = labels[annotation["category_id"]], annotation["segmentation"]
            drawings[annotation["image_id"]].objects.append(found)
        files = {str(image["file_name"]): image["id"] for image in content["images"]}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (*_MISTAKES, AttributeError) as error:
        raise UserError(f"{path} is no file of polygons as COCO has them: {error}.") from error
    except KeyError as error:
        raise UserError(
            f"{path} is no file of polygons as COCO has them: {error} is missing, or an annotation "
            "names an image or a category of that number."
        ) from error
    return {name: json.dumps(drawings[key]).encode() for name, key in files.items()}


def _check_unique(content: Mapping[str, Any]) -> None:
    """Raises a ValueError if a number or a name stands for two images or two categories.

    Files that were put together may be so. Nothing tells which of both an annotation means.
    """
    for part, key in (("images", "id"), ("images", "file_name"), ("categories", "id")):
        times = collections.Counter(entry[key] for entry in content[part])
        repeated = [value for value, count in times.items() if count > 1]
        if repeated:
            raise ValueError(f'"{part}" has the "{key}" {repeated[0]!r} more than once')


def _length(value: Any) -> int:
    """A height or a width."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:  # JSON's true is an int in Python
        raise ValueError(f"an image has the height or width {value!r}")
    return value


def _labels(
    categories: Sequence[Mapping[str, Any]], names: Sequence[str], path: pathlib.Path
) -> Iterator[tuple[Any, int]]:
    """The label of each category's number."""
    for category in categories:
        if category["name"] not in names:
            raise UserError(
                f"{path} has the category {category['name']!r}, which is none of the classes "
                f"{', '.join(names)}. Names must be equal, upper and lower case included."
            )
        yield category["id"], names.index(category["name"])


def draw(encoded: bytes, name: str, most_pixels: int) -> UInt8[np.ndarray, "h w"]:
    """The labels of an image.

    Args:
      encoded: what `read` returned.
      name: where they are from.
      most_pixels: an image with more is refused.

    Raises:
      UserError: an object is neither a list of polygons nor of run lengths.
    """
    drawing = Drawing(*json.loads(encoded))
    height, width = drawing.height, drawing.width
    if height * width > most_pixels:
        raise UserError(
            f"{name} is {width}x{height}, more pixels than config.data.max_pixels={most_pixels} "
            "allows. Make it smaller, or raise the limit."
        )
    labels = np.full((height, width), drawing.outside, np.uint8)
    for number, (label, covered) in enumerate(drawing.objects):
        try:
            if isinstance(covered, dict):
                labels[_runs(covered, (height, width))] = label
            else:
                for polygon in covered:
                    points = np.array(polygon, np.float64).reshape(-1, 2)
                    labels[inside(points, (height, width))] = label
        except (*_MISTAKES, KeyError) as error:
            raise UserError(
                f"{name}: object {number} (from 0) has no polygons [x0, y0, x1, y1, ...], and no "
                f"list of run lengths: {error}. Compressed run lengths are not read."
            ) from error
    return labels


def inside(
    points: Float[np.ndarray, "corners 2"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Whether the centre of each pixel lies inside a polygon.

    An edge that crosses the centre line of a row swaps inside and outside for all centres to its
    right.

    Args:
      points: x and y of the corners; a pixel is one unit wide, and the first begins at 0.
      size: height and width of the image.
    """
    height, width = size
    swaps = np.zeros((height, width + 1), np.int32)
    if not (np.abs(points) <= _FARTHEST).all():
        raise ValueError(f"a coordinate is not finite, or beyond {_FARTHEST:.0e}")
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        first, last = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (y0, y1))
        rows = np.arange(first, last)
        if rows.size:
            crossings = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
            np.add.at(swaps, (rows, columns), 1)
    odd: Bool[np.ndarray, "h w"] = np.cumsum(swaps, axis=1)[:, :width] % 2 == 1
    return odd


def _runs(covered: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """COCO's run lengths, which go down the columns and begin with pixels outside."""
    counts = covered["counts"]
    if not isinstance(counts, list) or list(covered["size"]) != list(size):
        raise ValueError("they are compressed, or of another size")
    # Python's numbers do not wrap around, as NumPy's do.
    if any(type(n) is not int or n < 0 for n in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError("they do not cover the image")
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(size[1], size[0]).T
