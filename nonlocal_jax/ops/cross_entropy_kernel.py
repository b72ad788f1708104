"""Cross entropy and its gradient, each in one pass over the classes: kernels for GPUs.

The first has tiles of pixels as ops/readout_kernel.py has, and leaves the logarithm of the sum of
exponentials of each pixel. The second walks along a few rows of pixels, a class to a thread, and
adds each pixel's gradient to those of the two columns of logits that it lies between.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Int, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.ops import readout_kernel as tiles
from nonlocal_jax.ops.readout_kernel import exp2, fma
from nonlocal_jax.ops.taps import Axis, Taps, resize_taps
from nonlocal_jax.ops.triton_math import LN_2, LOG2_E

# Of the gradient's programs: rows of pixels, classes of a tile, and tiles at most.
GRADIENT_ROWS, GRADIENT_CLASSES, GRADIENT_TILES = 4, 32, 5

Logits = Float[Array, "n h w classes"]
Labels = UInt8[Array, "n H W"]
Pixels = Float[Array, "n rows columns"]  # H and W, padded to whole tiles


def kernel_supports(logits: Logits) -> bool:
    """Whether the kernels are for such logits."""
    return tiles.kernel_supports(logits)


def loss_and_gradient(
    logits: Logits, labels: Labels, first: Int[Array, ""], rows: Axis, columns: Axis
) -> tuple[tuple[Array, Array, Array], Logits]:
    """Sums of losses, and of what is right and what is labelled, and the gradient of the losses'.

    Arguments are those of ops/cross_entropy.py's function.
    """
    place = first + jnp.arange(labels.shape[1], dtype=jnp.int32)
    # Exponentials are powers of two: so are the scores that both kernels work with.
    matrix = jnp.asarray(LOG2_E * _matrix(rows), jnp.float32)
    matrix = jnp.take(matrix, place, axis=0, mode="clip")
    loss, right, log_sum = _forward(logits, labels, matrix, columns)
    whole = labels.shape[1] == rows.target
    gradient = _gradient(logits, labels, log_sum, matrix, columns, _reach(rows, whole))
    counted = jnp.sum(labels != IGNORED, dtype=jnp.int32)
    return (LN_2 * loss, right, counted), gradient


def _matrix(axis: Axis) -> Float[np.ndarray, "target source"]:
    taps = resize_taps(axis)
    matrix = np.zeros((axis.target, axis.source), np.float32)
    np.add.at(matrix, (np.arange(axis.target)[:, None], taps.place), taps.weight)
    return matrix


def _forward(
    logits: Logits, labels: Labels, matrix: Float[Array, "H h"], columns: Axis
) -> tuple[Float[Array, ""], Int[Array, ""], Pixels]:
    """The losses' sum, how many pixels are right, and log-sum-exp, to base 2.

    Log-sum-exp is infinite where a pixel does not count.
    """
    index, weight = resize_taps(columns)
    taps = Taps(jnp.asarray(index)[None], jnp.asarray(weight, jnp.float32)[None])
    arrays = tiles.prepare(logits, matrix[None], taps, 1)
    shape = labels.shape[0], arrays[1].shape[1], arrays[3].shape[2]
    padding = [(0, to - at) for at, to in zip(labels.shape, shape, strict=True)]
    padded = jnp.pad(labels, padding, constant_values=IGNORED)
    grid = tiles.grid_of(*shape)

    def kernel(*refs: Any) -> None:
        view, labels = tiles.View(*refs[:5]), refs[5]
        losses, rights, log_sums = refs[6:]
        image, tile, column = (pl.program_id(axis) for axis in (0, 1, 2))
        here, lanes = tiles.tile_of(tile, column)
        label = labels[image, here, lanes].astype(jnp.int32)

        def add_chunk(step: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            peak, total, first, picked = carry
            scores = tiles.pixel_scores(view, image, tile, column, step)
            new, total = tiles.add_exponentials(peak, total, scores)
            for i, score in enumerate(scores):
                index = step * tiles.BLOCK_CLASSES + i
                first = jnp.where(score > peak, index, first)
                peak = jnp.maximum(score, peak)
                picked = jnp.where(label == index, score, picked)
            return new, total, first, picked

        start = (
            *tiles.no_exponentials(),
            jnp.zeros(label.shape, jnp.int32),
            jnp.full(label.shape, jnp.nan, jnp.float32),
        )
        peak, total, first, picked = tiles.loop(view.chunks, add_chunk, start)
        log_sum, counted = peak + jnp.log2(total), label != IGNORED
        # A label that fills up the last chunk is no class either.
        picked = jnp.where(label < logits.shape[3], picked, jnp.nan)
        losses[image, tile, column] = jnp.sum(jnp.where(counted, log_sum - picked, 0.0))
        right = counted & (first == label)
        rights[image, tile, column] = jnp.sum(right, dtype=jnp.int32)
        log_sums[image, here, lanes] = jnp.where(counted, log_sum, jnp.inf)

    losses, rights, log_sums = pl.pallas_call(
        kernel,
        out_shape=[
            jax.ShapeDtypeStruct(grid, jnp.float32),
            jax.ShapeDtypeStruct(grid, jnp.int32),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        ],
        grid=grid,
        compiler_params=plgpu.CompilerParams(num_warps=tiles.WARPS, num_stages=1),
        interpret=tiles.INTERPRET,
        name="cross_entropy",
    )(*arrays, padded)
    return jnp.sum(losses), jnp.sum(rights, dtype=jnp.int32), log_sums


def _reach(rows: Axis, whole: bool) -> tuple[int, int]:
    """Most rows of logits that a program's rows touch, and most programs that touch one of them.

    `whole` says that programs begin with row 0, not with any.
    """
    lower, upper = resize_taps(rows).place.T
    logits_rows, programs = 1, np.ones(rows.source, int)
    for start in range(1 if whole else GRADIENT_ROWS):
        begins = np.arange(start - GRADIENT_ROWS if start else 0, rows.target, GRADIENT_ROWS)
        first = lower[np.maximum(begins, 0)]
        last = upper[np.minimum(begins + GRADIENT_ROWS, rows.target) - 1]
        logits_rows = max(logits_rows, int((last - first).max()) + 1)
        touched = (first <= np.arange(rows.source)[:, None]) & (
            last >= np.arange(rows.source)[:, None]
        )
        programs = np.maximum(programs, touched.sum(axis=1))
    return logits_rows, int(programs.max())


def _gradient(
    logits: Logits,
    labels: Labels,
    log_sum: Pixels,
    matrix: Float[Array, "H h"],
    columns: Axis,
    reach: tuple[int, int],
) -> Logits:
    """The losses' gradient; `reach` is that of `_reach`."""
    matrix = tiles.pad(matrix, 0, GRADIENT_ROWS)
    programs, height = matrix.shape[0] // GRADIENT_ROWS, matrix.shape[1]
    used = jnp.any((matrix != 0).reshape(programs, GRADIENT_ROWS, height), axis=1)
    first = jnp.argmax(used, axis=1).astype(jnp.int32)
    padding = ((0, 0), (0, matrix.shape[0] - labels.shape[1]), (0, 0))
    labels = jnp.pad(labels, padding, constant_values=IGNORED)
    parts = _gradient_parts(logits, labels, log_sum, matrix, first, columns, reach[0])
    # Each row of logits is the sum over the programs that touch it: neighbours, in their order.
    row = jnp.arange(height, dtype=jnp.int32)
    begin = jnp.argmax(used, axis=0).astype(jnp.int32)
    total = jnp.zeros_like(logits)
    for step in range(reach[1]):
        program = jnp.minimum(begin + step, programs - 1)
        here = (begin + step < programs) & used[program, row]
        part = parts[:, program, jnp.clip(row - first[program], 0, reach[0] - 1)]
        total += jnp.where(here[:, None, None], part, 0.0)
    return total


def _gradient_parts(
    logits: Logits,
    labels: Int[Array, "n padded W"] | UInt8[Array, "n padded W"],
    log_sum: Pixels,
    matrix: Float[Array, "H h"],
    first: Int[Array, "programs"],
    columns: Axis,
    reach: int,
) -> Float[Array, "n programs reach w classes"]:
    """What each program's rows add to the rows of logits from `first` on."""
    n, height, width, classes = logits.shape
    taps = resize_taps(columns)
    ends = np.searchsorted(taps.place[:, 0], np.arange(width + 1)).astype(np.int32)
    groups = -(-classes // (GRADIENT_CLASSES * GRADIENT_TILES))
    per_group = -(-classes // (GRADIENT_CLASSES * groups))

    def kernel(*refs: Any) -> None:
        logits, labels, log_sums, matrix, first, weights, ends, out = refs
        image, program, group = (pl.program_id(axis) for axis in (0, 1, 2))
        here = pl.ds(program * GRADIENT_ROWS, GRADIENT_ROWS)
        top = first[program]
        lane = jnp.arange(GRADIENT_CLASSES, dtype=jnp.int32)[None, :]
        index = [(group * per_group + i) * GRADIENT_CLASSES + lane for i in range(per_group)]
        row = [jnp.minimum(top + q, height - 1) for q in range(reach)]
        share = [
            jnp.where(top + q < height, matrix[here, row[q]], 0.0)[:, None] for q in range(reach)
        ]

        def column_of(column: Any) -> list[Array]:
            """The program's rows of a column of logits, for each tile of classes."""
            found = []
            for i in index:
                total = jnp.zeros((GRADIENT_ROWS, GRADIENT_CLASSES), jnp.float32)
                for q in range(reach):
                    value = logits[image, row[q], column, jnp.minimum(i, classes - 1)]
                    total = fma(share[q], value, total)
                found.append(total)
            return found

        def add_pixel(pixel: Any, carry: tuple[list[Array], ...]) -> tuple[list[Array], ...]:
            left, right, of_left, of_right = carry
            lower, upper = weights[0, pixel], weights[1, pixel]
            log_sum = log_sums[image, here, pixel][:, None]
            label = labels[image, here, pixel].astype(jnp.int32)[:, None]
            new_left, new_right = [], []
            for x, y, a, b, i in zip(left, right, of_left, of_right, index, strict=True):
                difference = exp2(fma(lower, x, fma(upper, y, -log_sum)))
                difference = jnp.where(label == i, difference - 1.0, difference)
                new_left.append(fma(lower, difference, a))
                new_right.append(fma(upper, difference, b))
            return left, right, new_left, new_right

        def add_cell(column: Any, carry: tuple[list[Array], ...]) -> tuple[list[Array], ...]:
            left, of_left = carry
            right = column_of(jnp.minimum(column + 1, width - 1))
            _, _, of_left, of_right = lax.fori_loop(
                ends[column], ends[column + 1], add_pixel, (left, right, of_left, zeros)
            )
            # The last column is its own right neighbour.
            for a, b, i in zip(of_left, of_right, index, strict=True):
                done = jnp.where(column == width - 1, a + b, a)
                for q in range(reach):
                    part = LN_2 * jnp.sum(share[q] * done, axis=0)[None, :]
                    plgpu.store(out.at[image, program, q, column, i], part, mask=i < classes)
            return right, of_right

        zeros = [jnp.zeros((GRADIENT_ROWS, GRADIENT_CLASSES), jnp.float32)] * per_group
        tiles.loop(width, add_cell, (column_of(0), zeros))

    programs = matrix.shape[0] // GRADIENT_ROWS
    weights = jnp.asarray(taps.weight.T, jnp.float32)
    result: Array = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((n, programs, reach, width, classes), jnp.float32),
        grid=(n, programs, groups),
        compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
        interpret=tiles.INTERPRET,
        name="cross_entropy_gradient",
    )(logits, labels, log_sum, matrix, first, weights, jnp.asarray(ends))
    return result
