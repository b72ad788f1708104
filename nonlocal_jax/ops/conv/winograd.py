"""3x3 convolutions with a quarter of the multiplications, as 36 matrix products (arXiv 1509.09308).

A tile of 4x4 results depends on 6x6 inputs. Along each axis, a convolution is a product of
polynomials. Six values determine the product: those at five points, and the leading coefficient. In
this basis the convolution is an elementwise product for each pair of channels: 36 products for 16
results, where direct convolution takes 144. The changes of basis cost a few additions for each
input and result.

Rounding errors depend on the points. Those of these points, found by search, are a third of those
of the usual 0, 1, -1, 2, -2.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TILE = 4  # results along an axis of a tile
VALUES = TILE + 2  # inputs along it, and values
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
# Bytes of a block of rows of tiles. Values take 36/16 of the memory of inputs and results.
BLOCK_BYTES = 96 * 2**20

Images = Float[Array, "n h w i"]
Kernel = Float[Array, "3 3 i o"]
# The phases of a dilated convolution, as separate images.
Phases = Float[Array, "n rows phase columns phase c"]
Block = Float[Array, "n some_rows phase columns phase c"]


def _bases() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices from inputs [6, 6] and kernels [6, 3] to values, and from values to results [4, 6].

    They are the transposed Toom-Cook algorithm for products of polynomials.
    """
    inputs, kernels, results = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for row, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        inputs[row, :-1] = np.poly(others)[::-1]
        kernels[row] = point ** np.arange(3.0) / np.prod([point - other for other in others])
        results[:, row] = point ** np.arange(4.0)
    inputs[-1] = np.poly(POINTS)[::-1]
    kernels[-1, -1] = results[-1, -1] = 1
    return inputs, kernels, results


INPUTS, KERNELS, RESULTS = _bases()

# From even and odd parts to the values at opposite points, in the order of POINTS, and back.
EVEN_ODD = np.array(
    [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, -1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, -1, 0],
        [0, 0, 0, 0, 0, 1],
    ],
    float,
)
FROM_EVEN_ODD = np.linalg.inv(EVEN_ODD)


@partial(jax.jit, static_argnames="dilation")  # equal layers are traced once
def winograd_conv2d(x: Images, kernel: Kernel, dilation: int) -> Float[Array, "n h w o"]:
    """Convolution of stride 1 by a 3x3 kernel, with zeros around the image."""
    batch, height, width, _ = x.shape
    rows, blocks = _blocks(x, kernel.shape[-1], dilation)
    padded = _phases(x, dilation, rows * blocks, margin=1)
    columns, channels = (padded.shape[3] - 2) // TILE, kernel.shape[-1]
    weights = _kernel_values(kernel)

    def results(block: Array) -> Phases:
        values = _tile_values(INPUTS, _block(padded, block, rows, margin=1))
        products = jnp.matmul(values, weights)
        shape = (VALUES, VALUES, batch, rows, dilation, columns, dilation, channels)
        tiles = products.reshape(shape)
        tiles = _combine(RESULTS, [tiles[:, j] for j in range(VALUES)], axis=5)
        tiles = _combine(RESULTS, [tiles[i] for i in range(VALUES)], axis=2)
        return tiles.reshape(batch, rows * TILE, dilation, columns * TILE, dilation, channels)

    if blocks == 1:
        y = results(jnp.int32(0))
    else:
        y = jnp.moveaxis(lax.map(results, jnp.arange(blocks)), 0, 1)
    y = y.reshape(batch, -1, columns * TILE * dilation, channels)[:, :height, :width]
    # Without the barrier, XLA splits a sum over the result into one for each row of a tile.
    whole: Array = lax.optimization_barrier(y)
    return whole


@partial(jax.jit, static_argnames="dilation")
def winograd_weight_gradient(
    x: Images, grad: Float[Array, "n h w o"], dilation: int
) -> Float[Array, "3 3 i o"]:
    """The gradient of `winograd_conv2d` by its kernel, from the gradient by its result."""
    rows, blocks = _blocks(x, grad.shape[-1], dilation)
    padded = _phases(x, dilation, rows * blocks, margin=1)
    padded_grad = _phases(grad, dilation, rows * blocks, margin=0)

    def of_rows(block: Array) -> Float[Array, "values i o"]:
        values = _tile_values(INPUTS, _block(padded, block, rows, margin=1))
        of_grad = _tile_values(RESULTS.T, _block(padded_grad, block, rows, margin=0))
        return jnp.einsum("vti,vto->vio", values, of_grad)

    total = of_rows(jnp.int32(0))
    total = lax.fori_loop(1, blocks, lambda block, total: total + of_rows(block), total)
    back = jnp.array(np.kron(KERNELS, KERNELS).T, x.dtype)
    taps: Array = back @ total.reshape(VALUES**2, -1)
    return taps.reshape(3, 3, x.shape[-1], grad.shape[-1])


def _blocks(x: Images, channels: int, dilation: int) -> tuple[int, int]:
    """Rows of tiles in a block, and the number of blocks."""
    batch, height, width, inputs = x.shape
    tall, wide = (-(-length // (TILE * dilation)) for length in (height, width))
    row_bytes = batch * wide * dilation**2 * VALUES**2 * (inputs + channels) * x.dtype.itemsize
    blocks = min(-(-tall * row_bytes // BLOCK_BYTES), tall)
    rows = -(-tall // blocks)
    return rows, -(-tall // rows)


def _phases(x: Images, dilation: int, rows: int, *, margin: int) -> Phases:
    """`x` in whole tiles, `rows` of them, with `margin` pixels of each phase around."""
    _, height, width, _ = x.shape
    pads = [(0, 0)]
    for length, tiles in ((height, rows), (width, -(-width // (TILE * dilation)))):
        before = margin * dilation
        pads.append((before, tiles * TILE * dilation + before - length))
    padded = jnp.pad(x, [*pads, (0, 0)])
    tall, wide = (length // dilation for length in padded.shape[1:3])
    return padded.reshape(x.shape[0], tall, dilation, wide, dilation, x.shape[3])


def _block(padded: Phases, block: Array, rows: int, *, margin: int) -> Block:
    return lax.dynamic_slice_in_dim(padded, block * rows * TILE, rows * TILE + 2 * margin, axis=1)


def _tile_values(matrix: np.ndarray, block: Block) -> Float[Array, "values tiles c"]:
    """Changes the basis of both axes of each tile's window to values."""
    size = matrix.shape[1]
    last_row, last_column = block.shape[1] - size, block.shape[3] - size
    values = _combine(matrix, [block[:, i : i + last_row + 1 : TILE] for i in range(size)])
    columns = [values[..., j : j + last_column + 1 : TILE, :, :] for j in range(size)]
    values = _combine(matrix, columns, axis=1)
    return values.reshape(VALUES**2, -1, block.shape[-1])


def _combine(matrix: np.ndarray, parts: Sequence[Array], axis: int = 0) -> Array:
    """matrix @ parts, from or to six values, as single additions, on a new axis.

    The powers of opposite points differ at most in sign. So the values at two opposite points are
    the sum and the difference of an even and an odd polynomial, each with half of the terms.
    """
    if len(matrix) == VALUES:
        steps = FROM_EVEN_ODD @ matrix, EVEN_ODD
    else:
        steps = EVEN_ODD, matrix @ FROM_EVEN_ODD
    for step in steps:
        parts = [_weighted_sum(row, parts) for row in step]
    return jnp.stack(parts, axis)


def _weighted_sum(factors: np.ndarray, parts: Sequence[Array]) -> Array:
    """A sum in lax, because jnp's operators take long to trace."""
    (first, part), *others = [
        (factor, part) for factor, part in zip(factors, parts, strict=True) if factor != 0
    ]
    total = _times(first, part)
    for factor, part in others:
        subtract = factor == -1
        total = lax.sub(total, part) if subtract else lax.add(total, _times(factor, part))
    return total


def _times(factor: np.float64, part: Array) -> Array:
    return part if factor == 1 else lax.mul(part, factor.astype(part.dtype))


def _kernel_values(kernel: Kernel) -> Float[Array, "values i o"]:
    basis = jnp.array(np.kron(KERNELS, KERNELS), kernel.dtype)
    return (basis @ kernel.reshape(9, -1)).reshape(VALUES**2, *kernel.shape[2:])
