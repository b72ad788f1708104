"""Compares an export with JAX on images, before it is written."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.inputs import datasets, decode
from nonlocal_jax.inputs.datasets.scenes import make_scene
from nonlocal_jax.inputs.sources import open_source

Image = UInt8[np.ndarray, "h w 3"]
Function = Callable[[UInt8[np.ndarray, "n h w 3"]], Shaped[np.ndarray, "n ..."]]

COUNT = 2  # images, if none are given: one wide and one tall


class Bounds(NamedTuple):
    """What may differ.

    Attributes:
      equal: the least share of pixels with the same class.
      error: the largest difference of two numbers, as a share of the largest number.
    """

    equal: float
    error: float


EXACT, ROUGH = Bounds(0.9999, 1e-5), Bounds(0.98, 0.05)  # float32 or wider, and 16-bit floats


def compare(request: Request, function: Function) -> str:
    """Runs an export and JAX on `images`, one at a time, and says how equal the results are.

    Args:
      request: what was exported.
      function: the export in its own runtime: the result that `request.result` says, for images
        of one size.

    Raises:
      UserError: the results differ by more than rounding, or an image can't be read.
    """
    predictor = Predictor(request.restored, tta=request.tta)
    reference: Callable[[Image], np.ndarray] = {
        "indices": predictor.predict,
        "probabilities": predictor.probabilities,
        "logits": predictor.logits,
    }[request.result]
    equal, pixels, error, largest, sizes = 0, 0, 0.0, 0.0, []
    for image in images(request):
        sizes.append(f"{image.shape[1]}x{image.shape[0]}")
        with jax.default_matmul_precision("highest"):
            expected = reference(image)
        found = np.asarray(function(image[None]))[0]
        if found.shape != expected.shape:
            raise _different(f"its result is {list(found.shape)}, and not {list(expected.shape)}")
        if request.result != "indices":
            # NumPy's maximum keeps a NaN, and Python's need not.
            error = float(np.maximum(error, np.max(np.abs(found - expected))))
            largest = float(np.maximum(largest, np.max(np.abs(expected))))
            found, expected = found.argmax(-1), expected.argmax(-1)
        equal, pixels = equal + int(np.sum(found == expected)), pixels + found.size
    share, relative = equal / pixels, error / max(largest, 1e-30)
    told = f"{share:.4%} of the classes are equal"
    if request.result != "indices":
        told += f", and numbers differ by at most {relative:.1e} of the largest"
    bounds = EXACT if request.restored.config.model.dtype in ("float32", "float64") else ROUGH
    if not (share >= bounds.equal and relative <= bounds.error):
        raise _different(told)
    return f"Compared with JAX on images of {', '.join(sizes)}: {told}."


def images(request: Request) -> Iterator[Image]:
    """The images of `request`, else some of the data set, else generated ones.

    All are cut to odd heights and widths, and every second one is turned by 90 degrees.

    Raises:
      UserError: an image of `request` can't be read.
    """
    chosen: Iterable[Image]
    if request.images:
        most = request.restored.config.data.max_pixels
        chosen = (decode.read_image(path, most) for path in request.images)
    else:
        chosen = _of_data_set(request) or _generated()
    for number, image in enumerate(chosen):
        height, width = (length - (length + 1) % 2 for length in image.shape[:2])
        cut = image[:height, :width]
        yield np.ascontiguousarray(np.rot90(cut) if number % 2 else cut)


def _of_data_set(request: Request) -> list[Image]:
    """Images of the validation split; none if the data set is not there."""
    config = request.restored.config
    try:
        dataset = datasets.describe(config.data, config.data_dir)
        source = open_source(
            dataset,
            "val",
            data_dir=config.data_dir,
            kind=config.data.source,
            most_pixels=config.data.max_pixels,
        )
        return [source[index].image for index in range(min(COUNT, len(source)))]
    except UserError:
        return []


def _generated() -> list[Image]:
    return [make_scene("val", index)[0] for index in range(COUNT)]


def _different(how: str) -> UserError:
    return UserError(
        f"The export is not what JAX computes: {how}. Nothing was written. Another version of the "
        "format's packages may help; otherwise report it with the checkpoint's config."
    )
