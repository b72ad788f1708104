"""Maps cut into blocks, and the positions of all blocks in groups, and back; for heads/isa.py.

A map whose sizes are multiples of a block's, p_h x p_w, has two partitions into groups:

    far    a group has the positions with the same place in all blocks
    near   a group has the positions of a block
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from nonlocal_jax.models.heads.head import Features, own_sizes
from nonlocal_jax.ops.dims import Dim
from nonlocal_jax.ops.padding import Valid

Partition = Literal["far", "near"]
Groups = Float[Array, "n groups members _"]
Blocks = Int[Array, "n 2"]
"""How many blocks each image has, downwards and across."""
Start = tuple[Dim, Dim] | Int[Array, "n 2"]
"""Where the image begins in its blocks; numbers if it is at the same place in all images."""


def into_blocks(
    x: Features, valid: Valid | None, block: tuple[int, int]
) -> tuple[Float[Array, "n _ _ c"], Blocks, Start]:
    """Images in the middle of whole blocks, how many blocks each has, and where in them it begins.

    `x` is zero outside of the images.
    """
    sizes = own_sizes(x, valid)
    blocks = -(-sizes // jnp.array(block, sizes.dtype))
    space = [-(-size // edge) * edge for size, edge in zip(x.shape[1:3], block, strict=True)]
    if valid is None:
        start = (space[0] - x.shape[1]) // 2, (space[1] - x.shape[2]) // 2
        return _moved(x, start, space), blocks, start
    starts = (blocks * jnp.array(block, sizes.dtype) - sizes) // 2
    return _moved_each(x, starts, space, max(block)), blocks, starts


def out_of_blocks(
    y: Features, space: Sequence[Dim], start: Start, block: tuple[int, int]
) -> Float[Array, "n _ _ c"]:
    """The images of whole blocks where they were before, in maps of size `space`."""
    if isinstance(start, tuple):
        return _moved(y, (-start[0], -start[1]), space)
    return _moved_each(y, -start, space, max(block))


def _moved(x: Features, by: tuple[Dim, Dim], space: Sequence[Dim]) -> Float[Array, "n _ _ c"]:
    """Maps of size `space` with x moved down and to the right by so much, and zeros around it."""
    pads = [(b, s - size - b, 0) for b, s, size in zip(by, space, x.shape[1:3], strict=True)]
    moved: Array = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    return moved


def _moved_each(
    x: Features, by: Int[Array, "n 2"], space: Sequence[Dim], most: int
) -> Float[Array, "n _ _ c"]:
    """The same with a distance for each image, none of which is above `most`."""
    room = [max(sides) + 2 * most for sides in zip(x.shape[1:3], space, strict=True)]
    wide = _moved(x, (most, most), room)

    def one(image: Float[Array, "H W c"], by: Int[Array, "2"]) -> Float[Array, "h w c"]:
        row, column = most - by
        cut: Array = lax.dynamic_slice(image, (row, column, 0), (*space, image.shape[-1]))
        return cut

    return jax.vmap(one)(wide, by)


def grouped(x: Array, partition: Partition, block: tuple[int, int]) -> Array:
    """[n, h, w, ...] to [n, groups, members, ...]."""
    (n, h, w), (rows, columns) = x.shape[:3], block
    x = x.reshape(n, h // rows, rows, w // columns, columns, -1)
    if partition == "far":
        return x.transpose(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, -1, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, rows * columns, x.shape[-1])


def ungrouped(
    groups: Groups, partition: Partition, block: tuple[int, int], like: Features
) -> Float[Array, "n h w _"]:
    """The inverse, for maps of the size of `like`."""
    (n, h, w), (rows, columns) = like.shape[:3], block
    if partition == "far":
        x = groups.reshape(n, rows, columns, h // rows, w // columns, -1)
        return x.transpose(0, 3, 1, 4, 2, 5).reshape(n, h, w, -1)
    x = groups.reshape(n, h // rows, w // columns, rows, columns, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1)
