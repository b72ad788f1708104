"""From images to class indices at their original size, without scores at that size in memory.

The protocol resizes an image, runs the network on all of it or on overlapping windows whose logits
are averaged, resizes the logits to the input of the network, and resizes them to the original
image. Everything after the network is linear and separable. So one matrix for the rows and one for
the columns hold both resizes, the positions of the windows and their average. The matrices are
applied to a few rows at a time, and these are reduced to class indices at once.

Images of different sizes share a batch. Each is padded at the bottom and on the right, and its size
is a traced value. Its result does not depend on the batch. So one program serves a whole bucket.
"""

import functools
import typing
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped, UInt8

from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.ops import layout, readout
from nonlocal_jax.ops.blocks import in_blocks
from nonlocal_jax.ops.dims import Dim, known, smaller
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.ops.resize import interpolation_matrix
from nonlocal_jax.ops.taps import compose

# Scores at full resolution in a block of rows. 8 MB fit into the cache of a CPU, and keep a TPU
# busy. On a GPU they take less time than starting the kernels.
BLOCK, GPU_BLOCK = 2**21, 2**26
ROWS = 8  # of a block of scores at full resolution, where an image's size is not known yet
PRECISION = lax.Precision.HIGHEST  # of interpolation: bfloat16 would move positions and scores

Size = tuple[Dim, Dim]
Logits = Float[Array, "n a b classes"]


@typing.runtime_checkable
class Model(typing.Protocol):
    """A network in eval mode, such as a Segmentor."""

    @property
    def output_stride(self) -> int:
        """An image of h x w pixels has ceil(h / stride) x ceil(w / stride) logits."""

    def __call__(
        self, images: Float[Array, "n h w 3"], valid: Int[Array, "n 2"] | None = None
    ) -> Logits:
        """Logits of normalised images; `valid` is the size of each image in a padded batch."""


class Scaled(NamedTuple):
    """A batch at one of the scales that it is evaluated at.

    Attributes:
      images: RGB, padded at the bottom and on the right with any values.
      sizes: height and width of each image, without the padding.
    """

    images: UInt8[Array, "n h w 3"]
    sizes: Int[Array, "n 2"]


class LowResolution(NamedTuple):
    """Logits, and the matrices that resize them to the original images: rows @ logits @ columns^T.

    With windows, `a` and `b` are axes over all of them, and the matrices average their overlaps.

    Attributes:
      windows: how many there are along each axis; None where rows of the matrices may have more
        than three neighbours in a window that are not zero.
    """

    logits: Logits
    rows: Float[Array, "n H a"]
    columns: Float[Array, "n W b"]
    windows: Size | None = None


def low_resolution_scores(
    model: Model,
    scales: tuple[Scaled, ...],
    sizes: Int[Array, "n 2"],
    canvas: Size,
    protocol: Protocol,
    *,
    padded: bool = True,
) -> list[LowResolution]:
    """The logits at every scale, of the images and of the mirrored images.

    Args:
      model: a network in eval mode.
      scales: the images at every scale.
      sizes: original height and width of each image.
      canvas: (H, W) of the results, at least the largest of `sizes`.
      protocol: whole image or windows, mirrored or not.
      padded: whether there is any padding: an image that is smaller than its array or than a
        window. Without padding, no masks are computed.
    """
    results = []
    for scaled in scales:
        images = normalize(scaled.images, scaled.sizes if padded else None)

        def logits_of(seen: Float[Array, "n h w 3"], scaled: Scaled = scaled) -> Logits:
            return _network_logits(model, seen, scaled.sizes, protocol, padded)

        if protocol.flip:
            # One after the other, so the network is compiled once and its features are in memory
            # once.
            views = lax.map(logits_of, jnp.stack([images, mirror(images, scaled.sizes)]))
        else:
            views = logits_of(images)[None]
        rows, columns = (
            _axis_matrices(
                scaled.sizes[:, axis],
                sizes[:, axis],
                axis,
                lengths=(views.shape[2 + axis], images.shape[1 + axis], canvas[axis]),
                stride=model.output_stride,
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
    """For each pixel the class with the largest score, the first of equal ones.

    If scores are not finite, the result is the number of classes, which is no class. Pixels outside
    of an image have no meaning.
    """
    first = _first_largest if len(scores) == 1 else _first_largest_of_means
    if not known(*scores[0].rows.shape, *scores[0].columns.shape):
        return _row_by_row(_resized(scores), first)
    windows = [score.windows for score in scores if score.windows is not None]

    def by_blocks(scores: list[readout.Resized], size: int) -> UInt8[Array, "n H W"]:
        blocks = _by_row_blocks(scores, first, size)
        batch, height = scores[0].rows.shape[:2]
        return jnp.moveaxis(blocks, 0, 1).reshape(batch, -1, blocks.shape[-1])[:, :height]

    def by_taps(scores: list[readout.Resized]) -> UInt8[Array, "n H W"]:
        return readout.class_indices(scores, windows)

    few_neighbours = len(windows) == len(scores)
    on_gpu = by_taps if few_neighbours else functools.partial(by_blocks, size=GPU_BLOCK)
    masks = lax.platform_dependent(
        _resized(scores), cuda=on_gpu, default=functools.partial(by_blocks, size=BLOCK)
    )
    return layout.whole_rows(masks)


def probabilities(scores: list[LowResolution]) -> Float[Array, "n classes H W"]:
    """The probability of each class in each pixel: a full volume, unlike everything else here."""
    several = len(scores) > 1  # then the scores are probabilities already

    def reduce(s: Float[Array, "n rows classes W"]) -> Float[Array, "n rows classes W"]:
        return s if several else jax.nn.softmax(s, axis=2)

    if not known(*scores[0].rows.shape, *scores[0].columns.shape):
        return jnp.moveaxis(_row_by_row(_resized(scores), reduce), 2, 1)

    def volume(scores: list[readout.Resized], size: int) -> Float[Array, "n classes H W"]:
        blocks = _by_row_blocks(scores, reduce, size)
        batch, height = scores[0].rows.shape[:2]
        volume = jnp.moveaxis(blocks, (1, 3), (0, 1))
        return volume.reshape(batch, volume.shape[1], -1, volume.shape[-1])[:, :, :height]

    made = lax.platform_dependent(
        _resized(scores),
        cuda=functools.partial(volume, size=GPU_BLOCK),
        default=functools.partial(volume, size=BLOCK),
    )
    return layout.whole_rows(made)


def mirror(images: Float[Array, "n h w c"], sizes: Int[Array, "n 2"]) -> Float[Array, "n h w c"]:
    """Mirrors each image left to right within its own width. The padding stays on the right."""
    column = jnp.arange(images.shape[2], dtype=sizes.dtype)[None, :]
    source = jnp.where(column < sizes[:, 1:], sizes[:, 1:] - 1 - column, column)
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)


def _network_logits(
    model: Model,
    images: Float[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    protocol: Protocol,
    padded: bool,
) -> Logits:
    """Logits of whole images, or of all windows side by side. Rows are not split over devices."""
    windows = protocol.windows
    if windows is None:
        return layout.whole_rows(model(images, sizes if padded else None))
    images = layout.whole_rows(images)  # a window may start on any device
    _, height, width, _ = images.shape
    tops = windows.starts(0, sizes[:, 0], height)
    lefts = windows.starts(1, sizes[:, 1], width)
    shape = (smaller(windows.size[0], height), smaller(windows.size[1], width), 3)
    inside = jnp.minimum(sizes, jnp.array(shape[:2], sizes.dtype)) if padded else None

    def one_window(cell: Int[Array, ""]) -> Logits:
        cut: Callable[..., Array] = jax.vmap(
            lambda image, top, left: lax.dynamic_slice(image, (top, left, 0), shape)
        )
        row, column = cell // lefts.shape[1], cell % lefts.shape[1]
        return layout.whole_rows(model(cut(images, tops[:, row], lefts[:, column]), inside))

    if not known(*shape):
        return _side_by_side(one_window, tops.shape[1], lefts.shape[1])
    # One window at a time, as for mirrored images.
    logits = lax.map(one_window, jnp.arange(tops.shape[1] * lefts.shape[1]))
    _, batch, a, b, classes = logits.shape
    grid = logits.reshape(tops.shape[1], lefts.shape[1], batch, a, b, classes)
    side_by_side: Array = grid.transpose(2, 0, 3, 1, 4, 5).reshape(
        batch, tops.shape[1] * a, lefts.shape[1] * b, classes
    )
    return side_by_side


def _side_by_side(one_window: Callable[[Array], Logits], down: Dim, across: Dim) -> Logits:
    """The logits of all windows side by side, where their number is a symbol."""
    batch, a, b, classes = jax.eval_shape(one_window, jnp.int32(0)).shape
    columns = jnp.asarray(across, jnp.int32)

    def put(cell: Int[Array, ""], found: Logits) -> Logits:
        place = (0, cell // columns * a, cell % columns * b, 0)
        return lax.dynamic_update_slice(found, one_window(cell), place)

    found = jnp.zeros((batch, down * a, across * b, classes), jnp.float32)
    whole: Array = lax.fori_loop(0, columns * down, put, found)
    return whole


def _axis_matrices(
    input_sizes: Int[Array, "n"],
    output_sizes: Int[Array, "n"],
    axis: int,
    *,
    lengths: tuple[Dim, Dim, Dim],
    stride: int,
    protocol: Protocol,
) -> Float[Array, "n output logits"]:
    """The matrices of both resizes along one axis: from logits to the input, then to the original.

    `lengths` are the lengths of the axis in the logits, the input and the output. `stride` is that
    of the network.
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
            to_input = _enlarge(input_size, logits_length, input_length, stride, align_corners)
        else:
            seen = smaller(windows.size[axis], input_length)
            a_window = logits_length // windows.count(axis, input_length)
            inside = jnp.minimum(input_size, seen)
            enlarge = _enlarge(inside, a_window, seen, stride, align_corners)
            starts = windows.starts(axis, input_size, input_length)
            to_input = _average_windows(enlarge, starts, input_length)
        product = functools.partial(jnp.matmul, precision=PRECISION)
        if not known(*lengths):
            return product(to_output, to_input)
        both: Array = lax.platform_dependent(to_output, to_input, cuda=compose, default=product)
        return both

    return jax.vmap(one_image)(input_sizes, output_sizes)


def _enlarge(
    size: Int[Array, ""], logits_length: Dim, length: Dim, stride: int, align_corners: bool
) -> Float[Array, "length logits_length"]:
    """The matrix from the logits of an image or window of `size` pixels to its pixels."""
    return interpolation_matrix(
        -(-size // stride),
        size,
        source_length=logits_length,
        target_length=length,
        align_corners=align_corners,
    )


def _average_windows(
    enlarge: Float[Array, "window logits"],
    starts: Int[Array, "windows"],
    length: Dim,
) -> Float[Array, "length windows*logits"]:
    """The matrix from the logits of all windows to the pixels of an axis; it averages overlaps.

    The mean over a grid of windows is separable: the number of windows over a pixel is the product
    of the numbers along both axes.
    """
    window = enlarge.shape[0]
    # A window at the position of the one before it is not used.
    used = jnp.concatenate([jnp.array([True]), starts[1:] > starts[:-1]])
    pixel = jnp.arange(length)[None, :] - starts[:, None]
    inside = (pixel >= 0) & (pixel < window) & used[:, None]
    count = jnp.maximum(jnp.sum(inside, axis=0), 1)
    share = inside.astype(enlarge.dtype) / count.astype(enlarge.dtype)
    placed = enlarge[jnp.clip(pixel, 0, window - 1)] * share[..., None]
    return jnp.moveaxis(placed, 0, 1).reshape(length, -1)


def _reverse_rows(matrix: Float[Array, "n W b"], widths: Int[Array, "n"]) -> Float[Array, "n W b"]:
    """A matrix whose result is mirrored within the width of each image."""
    return mirror(matrix[:, None], jnp.stack([widths, widths], axis=1))[:, 0]


def _by_row_blocks(
    scores: Sequence[readout.Resized],
    reduce: Callable[[Float[Array, "n rows classes W"]], Array],
    size: int,
) -> Array:
    """Applies `reduce` to a few rows of the scores at a time, and stacks: [blocks, n, rows, ...].

    A block has at most `size` scores, or one row of each image. The scores are logits, or with
    several sets of logits the mean of their softmaxes.
    """
    batch, _, _, classes = scores[0].logits.shape
    height, width = scores[0].rows.shape[1], scores[0].columns.shape[1]
    rows = max(min(size // (batch * classes * width), height), 1)
    blocks = -(-height // rows)

    def cut(matrix: Float[Array, "n H a"]) -> Float[Array, "blocks n rows a"]:
        matrix = jnp.pad(matrix, ((0, 0), (0, blocks * rows - height), (0, 0)))
        return jnp.moveaxis(matrix.reshape(batch, blocks, rows, -1), 1, 0)

    block = functools.partial(_reduce_rows, scores, reduce)
    stacked: Array = lax.map(block, [cut(score.rows) for score in scores])
    return stacked


def _resized(scores: Sequence[LowResolution]) -> list[readout.Resized]:
    return [readout.Resized(score.logits, score.rows, score.columns) for score in scores]


def _row_by_row(
    scores: Sequence[readout.Resized],
    reduce: Callable[[Float[Array, "n rows classes W"]], Array],
) -> Shaped[Array, "n H ..."]:
    """The same for images whose size is a symbol; the rows are not stacked."""
    block = functools.partial(_reduce_rows, scores, reduce)
    return in_blocks(block, [score.rows for score in scores], ROWS)


def _reduce_rows(
    scores: Sequence[readout.Resized],
    reduce: Callable[[Float[Array, "n rows classes W"]], Array],
    parts: list[Float[Array, "n rows _"]],
) -> Array:
    """`reduce` of some rows of the scores; `parts` are the rows of the matrices."""
    total = jnp.zeros(())
    for part, (logits, _, columns) in zip(parts, scores, strict=True):
        # Rows first: their result is small, and the second product is a single large one.
        part = layout.split(part)
        some = jnp.einsum("nra,nabc->nrcb", part, logits, precision=PRECISION)
        full = jnp.einsum("nrcb,nWb->nrcW", some, columns, precision=PRECISION)
        total += jax.nn.softmax(full, axis=2) / len(scores) if len(scores) > 1 else full
    return reduce(total)


def _first_largest(scores: Float[Array, "n rows classes W"]) -> UInt8[Array, "n rows W"]:
    """argmax over classes, as two reductions: on a CPU, twice as fast as XLA's argmax."""
    classes = scores.shape[2]
    largest = jnp.max(scores, axis=2, keepdims=True)
    index = jnp.arange(classes, dtype=jnp.uint8)[:, None]
    return jnp.min(jnp.where(scores == largest, index, jnp.uint8(classes)), axis=2)


def _first_largest_of_means(scores: Float[Array, "n rows classes W"]) -> UInt8[Array, "n rows W"]:
    """The same for scores that are sums of products.

    XLA makes them twice, for the largest and for the comparison, and may round them differently.
    Where none equals the largest then, the first is taken that differs by rounding alone.
    """
    classes = scores.shape[2]
    largest = jnp.max(scores, axis=2, keepdims=True)
    index = jnp.arange(classes, dtype=jnp.int32)[:, None]
    nearly = jnp.where(scores >= largest * (1 - 2.0**-20), index + classes, 2 * classes)
    key = jnp.min(jnp.where(scores == largest, index, nearly), axis=2)
    return jnp.where(key < classes, key, jnp.minimum(key - classes, classes)).astype(jnp.uint8)
