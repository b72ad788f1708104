"""Equal blocks as one loop: less to compile, but it may run slower.

Parameters are stacked inside the program only, so their names in checkpoints do not change.
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
    """Applies `blocks` to `x` one after another, and updates their statistics.

    Args:
      apply_block: calls one block.
      blocks: they differ in their arrays only, and keep the shape of `x`.
      x: the input of the first block.
      valid: the size of each image in `x`.
    """
    graph, _ = nnx.split(blocks[0])
    states = [nnx.state(block) for block in blocks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    pure = functional(apply_block)
    x, statistics = lax.scan(lambda x, state: pure(graph, state, x, valid), x, stacked)
    for index, block in enumerate(blocks):
        nnx.update(block, jax.tree.map(operator.itemgetter(index), statistics))
    return x
