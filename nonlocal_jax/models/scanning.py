"""Equal blocks as one loop: a shorter program to compile, and one that may run slower.

Parameters keep their names: they are stacked inside the program, so that checkpoints do not know.
"""

import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.ops.padding import Valid

Features = Float[Array, "n h w c"]


def scan_blocks(
    apply_block: Callable[[nnx.Module, Features, Valid | None], Features],
    blocks: Sequence[nnx.Module],
    x: Features,
    valid: Valid | None,
) -> Features:
    """`x` through `blocks` one after another; their statistics are updated as they would be.

    The blocks differ in nothing but their arrays, and keep the shape of `x`. `valid` is the size
    of each image in it. `apply_block` calls one of them.
    """
    graph, _ = nnx.split(blocks[0])
    states = [nnx.state(block) for block in blocks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def step(x: Features, state: nnx.State) -> tuple[Features, nnx.State]:
        block = nnx.merge(graph, state)
        x = apply_block(block, x, valid)
        return x, nnx.state(block, nnx.BatchStat)

    x, statistics = lax.scan(step, x, stacked)
    for index, block in enumerate(blocks):
        nnx.update(block, jax.tree.map(operator.itemgetter(index), statistics))
    return x
