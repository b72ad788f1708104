"""Class indices in one pass over the classes: a kernel for GPUs.

Each program makes the masks of a tile of pixels: a few rows of BLOCK_COLUMNS pixels, a pixel of
each row to a thread. For a chunk of classes after the other it interpolates the columns of the
logits' rows that the tile touches, adds them up into the scores of its rows, and keeps the first
of the largest. Where there are several views, their softmaxes' denominators are computed before,
by a kernel of the same form.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int, UInt8

from nonlocal_jax.ops import triton_math
from nonlocal_jax.ops.taps import Taps

# Of a tile, and how many classes are looked at together.
BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_CLASSES = 4, 128, 8
WARPS = 4
# Classes beyond the last fill the last chunk up with this: they are never the largest.
NEVER = -1e30
INTERPRET = False  # tests run the kernels on a CPU

Logits = Float[Array, "n a b classes"]


def kernel_supports(logits: Logits) -> bool:
    """Whether the kernel is for such logits."""
    return logits.dtype == jnp.float32 and logits.size < 2**31


class View:
    """What a kernel is given of one view: in this order, as arrays and as references to them.

    All but the logits may have one entry that holds for all images.

    Attributes:
      logits: [n, classes, a, b]; the classes are a multiple of BLOCK_CLASSES.
      rows: the matrix [n, H, a], H a multiple of BLOCK_ROWS.
      runs: [n, tiles, windows, 2]: the rows of logits that a tile touches, first and last + 1.
      index, weight: taps of columns, [n, k, W], W a multiple of BLOCK_COLUMNS.
    """

    COUNT = 5

    def __init__(self, logits: Any, rows: Any, runs: Any, index: Any, weight: Any):
        self.logits, self.rows, self.runs = logits, rows, runs
        self.index, self.weight = index, weight
        self.chunks = logits.shape[1] // BLOCK_CLASSES


def prepare(
    logits: Logits, rows: Float[Array, "#n H a"], columns: Taps, windows: int
) -> list[Array]:
    """The arrays of a `View`; pixels beyond H and W have no weight."""
    rows = pad(rows, 1, BLOCK_ROWS)
    n, height, a = rows.shape
    tiles = (rows != 0).reshape(n, height // BLOCK_ROWS, BLOCK_ROWS, windows, a // windows)
    used = jnp.any(tiles, axis=2)
    place = jnp.arange(a, dtype=jnp.int32).reshape(windows, -1)
    first = jnp.min(jnp.where(used, place, a), axis=-1)
    last = jnp.max(jnp.where(used, place, -1), axis=-1)
    runs = jnp.stack([first, last + 1], axis=-1)
    taps = (jnp.moveaxis(pad(jnp.asarray(x), 1, BLOCK_COLUMNS), 2, 1) for x in columns)
    logits = jnp.transpose(pad(logits, 3, BLOCK_CLASSES, NEVER), (0, 3, 1, 2))
    return [logits, rows, runs, *taps]


def pad(x: Array, axis: int, multiple: int, value: float = 0) -> Array:
    """`x` with `value` up to a multiple."""
    widths = [(0, -x.shape[i] % multiple if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value)


def pixel_scores(
    view: View, image: Int[Array, ""], tile: Int[Array, ""], column: Int[Array, ""], chunk: Any
) -> list[Float[Array, "rows columns"]]:
    """In a kernel: the scores of a tile's pixels, for each class of a chunk."""
    lanes = pl.ds(column * BLOCK_COLUMNS, BLOCK_COLUMNS)
    count, own = view.index.shape[1], image if view.rows.shape[0] > 1 else 0
    places = [view.index[own, tap, lanes][None, :] for tap in range(count)]
    weights = [view.weight[own, tap, lanes][None, :] for tap in range(count)]
    here = pl.ds(tile * BLOCK_ROWS, BLOCK_ROWS)
    classes = [chunk * BLOCK_CLASSES + i for i in range(BLOCK_CLASSES)]

    def add_row(row: Any, totals: list[Array]) -> list[Array]:
        share = view.rows[own, here, row][:, None]
        added = []
        for index, total in zip(classes, totals, strict=True):
            value = weights[0] * view.logits[image, index, row, places[0]]
            for place, weight in zip(places[1:], weights[1:], strict=True):
                value = fma(weight, view.logits[image, index, row, place], value)
            added.append(fma(share, value, total))
        return added

    totals = [jnp.zeros((BLOCK_ROWS, BLOCK_COLUMNS), jnp.float32)] * BLOCK_CLASSES
    for window in range(view.runs.shape[2]):
        first, last = (view.runs[own, tile, window, end] for end in (0, 1))
        totals = lax.fori_loop(first, last, add_row, totals)
    return totals


def loop(turns: int, body: Any, start: Any) -> Any:
    """In a kernel: `body` for 0, 1, ..., turns - 1, as 32-bit integers."""
    return lax.fori_loop(jnp.int32(0), jnp.int32(turns), body, start)


def fma(a: Array, b: Array, c: Array) -> Array:
    """In a kernel: a b + c."""
    return triton_math.multiply_add(a, b, c, interpret=INTERPRET)


def exp2(x: Array) -> Array:
    """In a kernel: 2^x."""
    return triton_math.power_of_2(x, interpret=INTERPRET)


def log_sum_exp2(arrays: list[Array]) -> Float[Array, "n H W"]:
    """The binary logarithm of the sum of 2^score of a pixel; padded as `prepare` does."""

    def kernel(*refs: Any) -> None:
        view, out = View(*refs[: View.COUNT]), refs[-1]
        image, tile, column = (pl.program_id(axis) for axis in (0, 1, 2))

        def add_chunk(step: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            peak, total = carry
            return add_exponentials(peak, total, pixel_scores(view, image, tile, column, step))

        peak, total = loop(view.chunks, add_chunk, no_exponentials())
        rows, lanes = tile_of(tile, column)
        out[image, rows, lanes] = peak + jnp.log2(total)

    return _call(kernel, arrays, jnp.float32, "log_sum_exp")


def no_exponentials() -> tuple[Array, Array]:
    """In a kernel: the largest score, and the sum of exponentials, before any class."""
    shape = BLOCK_ROWS, BLOCK_COLUMNS
    return jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.float32)


def add_exponentials(peak: Array, total: Array, scores: list[Array]) -> tuple[Array, Array]:
    """In a kernel: the largest score so far, and the sum of 2^score relative to it."""
    new = functools.reduce(jnp.maximum, scores, peak)
    total *= exp2(peak - new)
    for score in scores:
        total += exp2(score - new)
    return new, total


def read_out(
    logits: Sequence[Float[Array, "n _ _ classes"]],
    rows: Sequence[Float[Array, "n H _"]],
    columns: Sequence[Taps],
    windows: Sequence[int],
) -> UInt8[Array, "n H W"]:
    """The first class of the largest score, or of the largest mean softmax of several views."""
    several, classes = len(logits) > 1, logits[0].shape[3]
    rows = [x.astype(jnp.float32) for x in rows]
    columns = [Taps(taps.place, taps.weight.astype(jnp.float32)) for taps in columns]
    if several:  # their softmaxes are computed by powers of two
        rows = [triton_math.LOG2_E * x for x in rows]
    views = [prepare(*parts) for parts in zip(logits, rows, columns, windows, strict=True)]
    sums = [log_sum_exp2(arrays) for arrays in views] if several else []
    arrays = [array for arrays in views for array in arrays]

    def kernel(*refs: Any) -> None:
        parts = [View(*refs[i : i + View.COUNT]) for i in range(0, len(arrays), View.COUNT)]
        log_sums, out = refs[len(arrays) : -1], refs[-1]
        image, tile, column = (pl.program_id(axis) for axis in (0, 1, 2))
        here, lanes = tile_of(tile, column)
        before = [x[image, here, lanes] for x in log_sums]
        zero = jnp.zeros((BLOCK_ROWS, BLOCK_COLUMNS), jnp.float32)

        def look_at_chunk(step: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            largest, first, finite = carry
            made = [pixel_scores(view, image, tile, column, step) for view in parts]
            for i in range(BLOCK_CLASSES):
                score = made[0][i]
                if several:
                    powers = [exp2(s[i] - b) for s, b in zip(made, before, strict=True)]
                    score = functools.reduce(jnp.add, powers)
                first = jnp.where(score > largest, step * BLOCK_CLASSES + i, first)
                largest = jnp.maximum(score, largest)
                finite = fma(score, zero, finite)
            return largest, first, finite

        start = jnp.full_like(zero, -jnp.inf), jnp.zeros(zero.shape, jnp.int32), zero
        # Zero times each score adds up to zero, unless one is infinite or NaN.
        _, first, finite = loop(parts[0].chunks, look_at_chunk, start)
        out[image, here, lanes] = jnp.where(finite == 0, first, classes).astype(jnp.uint8)

    height, width = rows[0].shape[1], columns[0].place.shape[1]
    return _call(kernel, [*arrays, *sums], jnp.uint8, "readout")[:, :height, :width]


def tile_of(tile: Any, column: Any) -> tuple[Any, Any]:
    """In a kernel: the rows and the columns of a tile."""
    return pl.ds(tile * BLOCK_ROWS, BLOCK_ROWS), pl.ds(column * BLOCK_COLUMNS, BLOCK_COLUMNS)


def _call(kernel: Any, arrays: list[Array], dtype: Any, name: str) -> Array:
    """One program for each tile; the result has a number for each pixel."""
    logits, rows, _, index, *_ = arrays
    shape = logits.shape[0], rows.shape[1], index.shape[2]
    result: Array = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(shape, dtype),
        grid=grid_of(*shape),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=INTERPRET,
        name=name,
    )(*arrays)
    return result


def grid_of(images: int, height: int, width: int) -> tuple[int, int, int]:
    """Programs for the tiles of so many pixels."""
    return images, height // BLOCK_ROWS, width // BLOCK_COLUMNS
