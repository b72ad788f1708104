"""Sorts the images of a set into buckets. The images of a bucket share an array shape.

Each bucket is one compiled program. Padding, an incomplete last batch and compiling all cost time.
At first each size is a group. Then groups are merged, the pair that costs least first.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

Size = tuple[int, int]
Cost = Callable[[int, int], float]

MAX_BUCKETS = 8
# Cost of a pixel of the result, in pixels of network input (measured, R-50 on a CPU).
RESULT_COST = 0.05
# Merging is quadratic in the number of sizes. If there are more, they are rounded up first.
MAX_SIZES = 128


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Images that are padded to the same shapes.

    Attributes:
      canvas: height and width of the results: the largest of the original images.
      inputs: the largest height and width at each scale.
      smallest: the smallest height and the smallest width at each scale.
      members: indices of the images, ascending.
    """

    canvas: Size
    inputs: tuple[Size, ...]
    smallest: tuple[Size, ...]
    members: tuple[int, ...]


def sort_into_buckets(
    sizes: Sequence[Size],
    inputs: Sequence[Sequence[Size]],
    *,
    batch_size: int,
    input_cost: Cost = operator.mul,
    compile_cost: float = 0.0,
    max_buckets: int = MAX_BUCKETS,
) -> list[Bucket]:
    """Sorts images into at most `max_buckets` buckets.

    Args:
      sizes: original height and width of every image.
      inputs: for every image, its height and width at each scale.
      batch_size: images in a step; an incomplete batch costs as much as a full one.
      input_cost: the cost of a network input of a given height and width, in pixels.
      compile_cost: the cost of compiling one program, in pixels. Groups are merged until merging
        costs more than that.
      max_buckets: the largest number of buckets.

    Returns:
      The buckets, largest inputs first, so a lack of memory shows at once. Empty without images.
    """
    if not sizes:
        return []
    shapes = np.array([[size, *scaled] for size, scaled in zip(sizes, inputs, strict=True)])
    groups = _equal_sizes(shapes[:, 0])
    corners = np.array([shapes[group].max(axis=0) for group in groups])
    counts = np.array([len(group) for group in groups])

    def cost(corners: Int[np.ndarray, "... shapes 2"], counts: np.ndarray) -> np.ndarray:
        height, width = corners[..., 0], corners[..., 1]
        image = np.vectorize(input_cost, otypes=[float])(height[..., 1:], width[..., 1:]).sum(-1)
        image = image + RESULT_COST * height[..., 0] * width[..., 0]
        total: np.ndarray = np.ceil(counts / batch_size) * batch_size * image
        return total

    together = cost(np.maximum(corners[:, None], corners), counts[:, None] + counts)
    while len(groups) > 1:
        first, second, extra = _cheapest_merge(together, cost(corners, counts))
        if len(groups) <= max_buckets and extra > compile_cost:
            break
        groups[first] = np.concatenate([groups[first], groups.pop(second)])
        corners[first] = np.maximum(corners[first], corners[second])
        counts[first] += counts[second]
        corners, counts = np.delete(corners, second, 0), np.delete(counts, second)
        together = np.delete(np.delete(together, second, 0), second, 1)
        together[first] = cost(np.maximum(corners[first], corners), counts[first] + counts)
        together[:, first] = together[first]
    buckets = [_bucket(shapes, group) for group in groups]
    return sorted(buckets, key=lambda bucket: -max(h * w for h, w in bucket.inputs))


def alone(size: Size, inputs: Sequence[Size]) -> Bucket:
    """The bucket of a single image, whatever other images come.

    So few shapes are possible that photographs of all sizes share a few programs. A side of an
    input is rounded up by at most a quarter. A side of the canvas, which costs much less, is
    rounded up by at most a half, and is at least 256 and that of the first input.
    """
    rounded = tuple((_round_up(h, 4, 32), _round_up(w, 4, 32)) for h, w in inputs)
    canvas = (
        max(_round_up(size[0], 2, 256), rounded[0][0]),
        max(_round_up(size[1], 2, 256), rounded[0][1]),
    )
    return Bucket(canvas, rounded, tuple(inputs), (0,))


def _round_up(length: int, per_octave: int, least: int) -> int:
    """Rounds up to a multiple of `least`, of few lengths between two powers of two."""
    octave = 1 << max((length - 1).bit_length() - 1, 0)
    step = max(octave // per_octave, least)
    return -(-length // step) * step


def batches(buckets: Iterable[Bucket], batch_size: int) -> list[tuple[Bucket, tuple[int, ...]]]:
    """All images in batches, each from one bucket. The last batch of a bucket may be incomplete."""
    return [
        (bucket, bucket.members[start : start + batch_size])
        for bucket in buckets
        for start in range(0, len(bucket.members), batch_size)
    ]


def _equal_sizes(sizes: Int[np.ndarray, "images 2"]) -> list[Int[np.ndarray, "group"]]:
    """Indices of the images, grouped by size. Sizes are rounded up until they are few enough."""
    step = 1
    while True:
        _, group = np.unique(-(-sizes // step), axis=0, return_inverse=True)
        group = group.ravel()
        if group.max() < MAX_SIZES:
            return [np.flatnonzero(group == index) for index in range(group.max() + 1)]
        step *= 2


def _cheapest_merge(
    together: Float[np.ndarray, "groups groups"], apart: Float[np.ndarray, "groups"]
) -> tuple[int, int, float]:
    """The two groups that cost least to merge (the smaller index first), and that cost."""
    extra = together - apart[:, None] - apart
    extra[np.tril_indices(len(apart))] = np.inf
    first, second = np.unravel_index(np.argmin(extra), extra.shape)
    return int(first), int(second), float(extra[first, second])


def _bucket(shapes: Int[np.ndarray, "images shapes 2"], group: Int[np.ndarray, "group"]) -> Bucket:
    canvas, *inputs = map(tuple, shapes[group].max(axis=0).tolist())
    _, *smallest = map(tuple, shapes[group].min(axis=0).tolist())
    return Bucket(canvas, tuple(inputs), tuple(smallest), tuple(sorted(group.tolist())))
