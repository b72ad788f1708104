"""Equal blocks as one loop: a shorter program to compile, and one that may run slower.

Parameters keep their names: they are stacked inside the program, so that checkpoints do not know.
"""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from nonlocal_jax.models.tracing import Apply, Features, functional
from nonlocal_jax.ops.padding import Valid


def scan_blocks(
    apply_block: Apply,
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

    pure = functional(apply_block)
    x, statistics = lax.scan(lambda x, state: pure(graph, state, x, valid), x, stacked)
    for index, block in enumerate(blocks):
        nnx.update(block, jax.tree.map(operator.itemgetter(index), statistics))
    return x
