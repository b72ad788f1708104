"""A function of rows, applied to a few rows at a time, where their number is a symbol."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Rows = TypeVar("Rows")


def in_blocks(function: Callable[[Rows], Array], rows: Rows, count: int) -> Array:
    """function(rows) for `count` rows at a time.

    The number of blocks is computed when the function runs. It is not a symbolic expression: JAX
    takes long to prove that such a quotient is not negative.

    Args:
      function: from [n, count, ...] to [n, count, ...], row by row.
      rows: an array [n, rows, ...], or a tree of them.
      count: of rows in a block.
    """

    def with_room(x: Array) -> Array:
        room = [(0, 0, 0), (0, count, 0)] + [(0, 0, 0)] * (x.ndim - 2)
        return lax.pad(x, jnp.zeros((), x.dtype), room)

    batch, length = jax.tree.leaves(rows)[0].shape[:2]
    padded = jax.tree.map(with_room, rows)

    def block(index: Array) -> Array:
        cut = partial(lax.dynamic_slice_in_dim, start_index=index * count, slice_size=count, axis=1)
        return function(jax.tree.map(cut, padded))

    def put(index: Array, results: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(results, block(index), index * count, axis=1)

    first = jax.eval_shape(block, jnp.int32(0))
    results = jnp.zeros((batch, length + count, *first.shape[2:]), first.dtype)
    blocks = -(-jnp.asarray(length, jnp.int32) // count)
    results = lax.fori_loop(0, blocks, put, results)
    whole: Array = lax.slice_in_dim(results, 0, length, axis=1)
    return whole
