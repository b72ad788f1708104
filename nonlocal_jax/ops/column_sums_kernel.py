"""Two sums over all pixels, for each channel, in one pass: a kernel for GPUs.

XLA's own reductions of columns read 16-bit numbers at three quarters of what the memory gives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from nonlocal_jax.ops import layout

BLOCK_PIXELS, BLOCK_CHANNELS, WARPS = 64, 128, 8
PROGRAMS = 2112  # at least: 16 for each of a large GPU's processors
INTERPRET = False  # tests run the kernel on a CPU

Terms = Callable[..., tuple[Array, Array]]


def kernel_supports(x: Float[Array, "*pixels c"]) -> bool:
    """Whether the kernel is for such arrays: on one device, with channels that divide."""
    channels = x.shape[-1]
    block = min(channels, BLOCK_CHANNELS)
    divides = channels % block == 0 and block >= 16 and block & (block - 1) == 0
    return divides and x.dtype.itemsize == 2 and not layout.is_split()


def column_sums(
    terms: Terms,
    arrays: Sequence[Float[Array, "*pixels c"]],
    vectors: Sequence[Float[Array, "c"]],
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """The sums of both results of `terms(*arrays, *vectors)` over all axes but the last.

    Args:
      terms: of tiles [pixels, channels] and vectors [1, channels], all float32.
      arrays: all of one shape.
      vectors: float32.
    """
    channels = arrays[0].shape[-1]
    flat = [x.reshape(-1, channels) for x in arrays]
    pixels, block = flat[0].shape[0], min(channels, BLOCK_CHANNELS)
    columns = channels // block
    turns = max(pl.cdiv(pixels * columns, PROGRAMS * BLOCK_PIXELS), 1)
    parts = pl.cdiv(pixels, turns * BLOCK_PIXELS)

    def kernel(*refs: Any) -> None:
        inputs, out = refs[:-1], refs[-1]
        part, column = pl.program_id(0), pl.program_id(1)
        lanes = pl.ds(column * block, block)
        own = [ref[lanes][None, :] for ref in inputs[len(flat) :]]

        def add(turn: Any, totals: tuple[Array, Array]) -> tuple[Array, Array]:
            start = (part * turns + turn) * BLOCK_PIXELS
            here = start + jnp.arange(BLOCK_PIXELS, dtype=jnp.int32)[:, None] < pixels
            rows = pl.ds(start, BLOCK_PIXELS)
            tiles = [
                plgpu.load(ref.at[rows, lanes], mask=here, other=0.0).astype(jnp.float32)
                for ref in inputs[: len(flat)]
            ]
            found = terms(*tiles, *own)
            one, two = (
                total + jnp.where(here, term, 0.0)
                for total, term in zip(totals, found, strict=True)
            )
            return one, two

        zeros = jnp.zeros((BLOCK_PIXELS, block), jnp.float32)
        totals = jax.lax.fori_loop(jnp.int32(0), jnp.int32(turns), add, (zeros, zeros))
        for which, total in enumerate(totals):
            out[part, which, lanes] = jnp.sum(total, axis=0)

    sums = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((parts, 2, channels), jnp.float32),
        grid=(parts, columns),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=2),
        interpret=INTERPRET,
        name="column_sums",
    )(*flat, *vectors)
    one, two = jnp.sum(sums, axis=0)
    return one, two
