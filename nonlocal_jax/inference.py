"""From images to class indices at their original size, without a score volume at that size.

The protocol resizes an image, runs the network (whole, or on overlapping windows whose logits are
averaged), resizes its logits to the network's input and then to the original image. All of that
after the network is linear, and it is separable: one matrix for the rows and one for the columns
hold both resizes, the windows' places and their average. They are applied to a few rows at a time,
which are reduced to class indices at once.

Images of different sizes share a batch: each is padded at the bottom and on the right, its sizes
are traced values, and its result is the one it has alone. So a program serves a whole bucket.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from nonlocal_jax.buckets import Bucket
from nonlocal_jax.inputs.transforms import test_sizes
from nonlocal_jax.models.segmentor import Segmentor
from nonlocal_jax.ops import layout, readout
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.ops.resize import interpolation_matrix
from nonlocal_jax.ops.taps import compose

PRECISION = lax.Precision.HIGHEST  # of interpolation: bfloat16 would move positions and scores

Size = tuple[int, int]
Logits = Float[Array, "n a b classes"]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Overlapping windows that cover an image, `stride` apart; the last are moved back inside.

    Attributes:
      size: height and width; a smaller image is its own only window.
      stride: from window to window.
    """

    size: Size
    stride: Size

    def count(self, axis: int, length: int) -> int:
        """How many windows cover an axis of `length` pixels."""
        return -(-max(length - self.size[axis], 0) // self.stride[axis]) + 1

    def starts(
        self, axis: int, lengths: Int[Array, "*n"], longest: int
    ) -> Int[Array, "*n windows"]:
        """Where windows begin: as many as the longest axis needs; others repeat their last."""
        places = jnp.arange(self.count(axis, longest)) * self.stride[axis]
        return jnp.minimum(places, jnp.maximum(lengths[..., None] - self.size[axis], 0))

    def cost(self, height: int, width: int) -> int:
        """Pixels that the network sees of an image."""
        rows, columns = min(height, self.size[0]), min(width, self.size[1])
        return self.count(0, height) * self.count(1, width) * rows * columns


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How class indices are found for an image.

    Attributes:
      scale: long and short side that the image is fitted into, its aspect kept.
      align_corners: of both resizes of the logits.
      ratios: each one gives a size to evaluate at, `scale` times it.
      flip: every size is also evaluated mirrored. Several results are averaged as probabilities.
      windows: what the network sees one at a time, or None for the whole image.
    """

    scale: Size
    align_corners: bool
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    windows: Windows | None = None

    def once(self) -> "Protocol":
        """One pass over the whole image at `scale`: for what can't be averaged."""
        return Protocol(self.scale, self.align_corners)

    def input_sizes(self, size: Size) -> list[Size]:
        """The sizes at which an image of an original `size` is evaluated, one per ratio."""
        return test_sizes(*size, self.scale, self.ratios)

    def cost(self, height: int, width: int) -> int:
        """Pixels that the network sees of an input of this size."""
        return height * width if self.windows is None else self.windows.cost(height, width)

    def windows_of(self, size: Size) -> Size:
        """How many windows there are along each axis of an input of this size."""
        if self.windows is None:
            return 1, 1
        return self.windows.count(0, size[0]), self.windows.count(1, size[1])

    def meets_padding(self, bucket: Bucket) -> bool:
        """Whether some image of a bucket is smaller than the array that the network sees it in."""
        seen = np.array(bucket.inputs)
        if self.windows is not None:
            seen = np.minimum(seen, self.windows.size)
        return bool((np.array(bucket.smallest) < seen).any())


class Scaled(NamedTuple):
    """A batch at one of the scales at which it is evaluated.

    Attributes:
      images: RGB, padded at the bottom and on the right; what the padding holds does not matter.
      sizes: height and width of each image, without the padding.
    """

    images: UInt8[Array, "n h w 3"]
    sizes: Int[Array, "n 2"]


class LowResolution(NamedTuple):
    """Logits, and how they are resized to the original images: rows @ logits @ columns^T.

    Where there are windows, `a` and `b` run over all of them, and the matrices average overlaps.

    Attributes:
      windows: how many there are along each axis; None where rows of the matrices may have more
        than three neighbours in a window that are not zero.
    """

    logits: Logits
    rows: Float[Array, "n H a"]
    columns: Float[Array, "n W b"]
    windows: Size | None = None


def low_resolution_scores(
    model: Segmentor,
    scales: tuple[Scaled, ...],
    sizes: Int[Array, "n 2"],
    canvas: Size,
    protocol: Protocol,
    *,
    padded: bool = True,
) -> list[LowResolution]:
    """The network's logits at every scale, as they are and mirrored.

    Args:
      model: a network in eval mode.
      scales: the images at every scale that is evaluated.
      sizes: original height and width of each image.
      canvas: (H, W) of the results, at least the largest of `sizes`.
      protocol: whole or sliding, mirrored or not.
      padded: whether the network meets padding at all: whether a whole image is smaller than its
        array, or than a window. False spares it the masks.
    """
    results = []
    for scaled in scales:
        images = normalize(scaled.images, scaled.sizes)

        def logits_of(seen: Float[Array, "n h w 3"], scaled: Scaled = scaled) -> Logits:
            return _network_logits(model, seen, scaled.sizes, protocol, padded)

        if protocol.flip:
            # One after the other: a single copy of the network is compiled, and held in memory.
            views = lax.map(logits_of, jnp.stack([images, mirror(images, scaled.sizes)]))
        else:
            views = logits_of(images)[None]
        rows, columns = (
            _axis_matrices(
                scaled.sizes[:, axis],
                sizes[:, axis],
                axis,
                lengths=(views.shape[2 + axis], images.shape[1 + axis], canvas[axis]),
                protocol=protocol,
            )
            for axis in (0, 1)
        )
        windows = protocol.windows_of((images.shape[1], images.shape[2]))
        results.append(LowResolution(views[0], rows, columns, windows))
        if protocol.flip:
            reverse = _reverse_rows(columns, sizes[:, 1])
            results.append(LowResolution(views[1], rows, reverse, windows))
    return results


def class_indices(scores: list[LowResolution]) -> UInt8[Array, "n H W"]:
    """For each pixel the first class of the largest score.

    It is `classes`, which is none of them, where scores are not finite. Pixels beyond an image's
    size are meaningless.
    """
    windows = [score.windows for score in scores if score.windows is not None]

    def by_blocks(scores: list[readout.Resized]) -> UInt8[Array, "n H W"]:
        blocks = _by_row_blocks(scores, _first_largest)
        batch, height = scores[0].rows.shape[:2]
        return jnp.moveaxis(blocks, 0, 1).reshape(batch, -1, blocks.shape[-1])[:, :height]

    def by_taps(scores: list[readout.Resized]) -> UInt8[Array, "n H W"]:
        return readout.class_indices(scores, windows)

    resized = [readout.Resized(score.logits, score.rows, score.columns) for score in scores]
    if len(windows) < len(scores):
        masks = by_blocks(resized)
    else:
        masks = lax.platform_dependent(resized, cuda=by_taps, default=by_blocks)
    return layout.whole_rows(masks)


def probabilities(scores: list[LowResolution]) -> Float[Array, "n classes H W"]:
    """The probability of every class in each pixel. Unlike anything else here, a full volume."""
    several = len(scores) > 1  # then they are probabilities already
    blocks = _by_row_blocks(scores, lambda s: s if several else jax.nn.softmax(s, axis=2))
    batch, height = scores[0].rows.shape[:2]
    volume = jnp.moveaxis(blocks, (1, 3), (0, 1))
    volume = volume.reshape(batch, volume.shape[1], -1, volume.shape[-1])[:, :, :height]
    return layout.whole_rows(volume)


def mirror(images: Float[Array, "n h w c"], sizes: Int[Array, "n 2"]) -> Float[Array, "n h w c"]:
    """Every image left to right within its own width; the padding stays on the right."""
    column = jnp.arange(images.shape[2])[None, :]
    source = jnp.where(column < sizes[:, 1:], sizes[:, 1:] - 1 - column, column)
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)


def _network_logits(
    model: Segmentor,
    images: Float[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    protocol: Protocol,
    padded: bool,
) -> Logits:
    """Decode logits of whole images, or of all windows side by side; rows on no device apart."""
    windows = protocol.windows
    if windows is None:
        return layout.whole_rows(model(images, sizes if padded else None))
    images = layout.whole_rows(images)  # a window may begin on any device
    _, height, width, _ = images.shape
    tops = windows.starts(0, sizes[:, 0], height)
    lefts = windows.starts(1, sizes[:, 1], width)
    shape = (min(windows.size[0], height), min(windows.size[1], width), 3)
    inside = jnp.minimum(sizes, jnp.array(shape[:2], sizes.dtype)) if padded else None

    def one_window(cell: Int[Array, ""]) -> Logits:
        cut = jax.vmap(lambda image, top, left: lax.dynamic_slice(image, (top, left, 0), shape))
        row, column = cell // lefts.shape[1], cell % lefts.shape[1]
        return layout.whole_rows(model(cut(images, tops[:, row], lefts[:, column]), inside))

    # One window at a time, for the same reason as for mirrored images.
    logits = lax.map(one_window, jnp.arange(tops.shape[1] * lefts.shape[1]))
    _, batch, a, b, classes = logits.shape
    grid = logits.reshape(tops.shape[1], lefts.shape[1], batch, a, b, classes)
    return grid.transpose(2, 0, 3, 1, 4, 5).reshape(
        batch, tops.shape[1] * a, lefts.shape[1] * b, classes
    )


def _axis_matrices(
    input_sizes: Int[Array, "n"],
    output_sizes: Int[Array, "n"],
    axis: int,
    *,
    lengths: tuple[int, int, int],
    protocol: Protocol,
) -> Float[Array, "n output logits"]:
    """Both resizes along one axis: from logits to the network's input, and on to the original.

    `lengths` are those of the logits' axis, of the input's, and of the output's.
    """
    logits_length, input_length, output_length = lengths
    align_corners, windows = protocol.align_corners, protocol.windows

    def one_image(input_size: Int[Array, ""], output_size: Int[Array, ""]) -> Float[Array, "o l"]:
        to_output = interpolation_matrix(
            input_size,
            output_size,
            source_length=input_length,
            target_length=output_length,
            align_corners=align_corners,
        )
        if windows is None:
            to_input = _enlarge(input_size, logits_length, input_length, align_corners)
        else:
            seen = min(windows.size[axis], input_length)
            a_window = logits_length // windows.count(axis, input_length)
            enlarge = _enlarge(jnp.minimum(input_size, seen), a_window, seen, align_corners)
            starts = windows.starts(axis, input_size, input_length)
            to_input = _average_windows(enlarge, starts, input_length)
        product = functools.partial(jnp.matmul, precision=PRECISION)
        return lax.platform_dependent(to_output, to_input, cuda=compose, default=product)

    return jax.vmap(one_image)(input_sizes, output_sizes)


def _enlarge(
    size: Int[Array, ""], logits_length: int, length: int, align_corners: bool
) -> Float[Array, "{length} {logits_length}"]:
    """From the logits of an image or window of `size` pixels to those pixels."""
    logits_size, halved = size, length
    while halved > logits_length:
        logits_size, halved = (logits_size + 1) // 2, (halved + 1) // 2
    return interpolation_matrix(
        logits_size,
        size,
        source_length=logits_length,
        target_length=length,
        align_corners=align_corners,
    )


def _average_windows(
    enlarge: Float[Array, "window logits"],
    starts: Int[Array, "windows"],
    length: int,
) -> Float[Array, "{length} windows*logits"]:
    """From the logits of all windows along an axis to its pixels: the mean where they overlap.

    The mean over a grid of windows is separable: a pixel lies in (windows along its column) x
    (windows along its row) of them.
    """
    window = enlarge.shape[0]
    # A window that repeats the one before stands for none.
    used = jnp.concatenate([jnp.array([True]), starts[1:] > starts[:-1]])
    pixel = jnp.arange(length)[None, :] - starts[:, None]
    inside = (pixel >= 0) & (pixel < window) & used[:, None]
    share = inside.astype(jnp.float32) / jnp.maximum(jnp.sum(inside, axis=0), 1).astype(jnp.float32)
    placed = enlarge[jnp.clip(pixel, 0, window - 1)] * share[..., None]
    return jnp.moveaxis(placed, 0, 1).reshape(length, -1)


def _reverse_rows(matrix: Float[Array, "n W b"], widths: Int[Array, "n"]) -> Float[Array, "n W b"]:
    """The matrix whose result is mirrored within each image's own width."""
    return mirror(matrix[:, None], jnp.stack([widths, widths], axis=1))[:, 0]


def _by_row_blocks(
    scores: Sequence[LowResolution | readout.Resized],
    reduce: Callable[[Float[Array, "n rows classes W"]], Array],
) -> Array:
    """`reduce` of a few rows of the scores at a time, stacked: [blocks, n, rows, ...].

    One set of logits is handed on as it is; several become the mean of their softmaxes.
    """
    batch, _, _, classes = scores[0].logits.shape
    height, width = scores[0].rows.shape[1], scores[0].columns.shape[1]
    # A few megabytes: it stays in a CPU's cache, and keeps an accelerator busy.
    rows = max(min(2**21 // (batch * classes * width), height), 1)
    blocks = -(-height // rows)

    def cut(matrix: Float[Array, "n H a"]) -> Float[Array, "blocks n rows a"]:
        matrix = jnp.pad(matrix, ((0, 0), (0, blocks * rows - height), (0, 0)))
        return jnp.moveaxis(matrix.reshape(batch, blocks, rows, -1), 1, 0)

    def block(parts: list[Float[Array, "n rows a"]]) -> Array:
        total = jnp.zeros(())
        for part, (logits, _, columns, *_) in zip(parts, scores, strict=True):
            # Rows first: their result is small, and the second product is one large one.
            part = layout.split(part)
            some = jnp.einsum("nra,nabc->nrcb", part, logits, precision=PRECISION)
            full = jnp.einsum("nrcb,nWb->nrcW", some, columns, precision=PRECISION)
            total += jax.nn.softmax(full, axis=2) / len(scores) if len(scores) > 1 else full
        return reduce(total)

    return lax.map(block, [cut(score.rows) for score in scores])


def _first_largest(scores: Float[Array, "n rows classes W"]) -> UInt8[Array, "n rows W"]:
    """argmax over classes; as two plain reductions it is twice as fast on CPU as XLA's own."""
    classes = scores.shape[2]
    largest = jnp.max(scores, axis=2, keepdims=True)
    index = jnp.arange(classes, dtype=jnp.uint8)[:, None]
    return jnp.min(jnp.where(scores == largest, index, jnp.uint8(classes)), axis=2)
