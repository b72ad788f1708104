"""Bilinear resizing as PyTorch defines it, written as one small matrix per axis.

Both `align_corners` conventions are linear and separable, so resizing is two matrix products:
rows, then columns. They shard, differentiate and compose (matrix times matrix) like any other.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.ops.dims import Dim
from nonlocal_jax.ops.dtypes import float32_or_wider

Size = int | Int[Array, ""]


def interpolation_matrix(
    source: Size,
    target: Size,
    *,
    source_length: Dim,
    target_length: Dim,
    align_corners: bool,
) -> Float[Array, "target_length source_length"]:
    """The matrix that resizes an axis of `source` samples to `target` samples.

    `source` and `target` may be traced: they are the axis's own sizes inside arrays of the static
    lengths `source_length` and `target_length`. Rows from `target` on are zero, and columns from
    `source` on are never read. At most two entries of a row are not zero.
    """
    dtype = jnp.result_type(float)  # float32, unless 64 bits are switched on
    index = jnp.arange(target_length, dtype=dtype)
    source_f = jnp.asarray(source, dtype)
    target_f = jnp.asarray(target, dtype)
    if align_corners:
        position = index * ((source_f - 1) / jnp.maximum(target_f - 1, 1))
    else:
        position = jnp.maximum((index + 0.5) * (source_f / target_f) - 0.5, 0)
    position = jnp.minimum(position, source_f - 1)
    lower = jnp.floor(position)
    upper = jnp.minimum(lower + 1, source_f - 1)
    weight = (position - lower)[:, None]
    columns = jnp.arange(source_length, dtype=dtype)[None, :]
    matrix = jnp.where(columns == lower[:, None], 1 - weight, 0.0)
    matrix += jnp.where(columns == upper[:, None], weight, 0.0)
    return jnp.where(index[:, None] < target_f, matrix, 0.0)


def resize_matrix(
    source: int, target: int, align_corners: bool
) -> Float[Array, "{target} {source}"]:
    """The matrix that resizes a whole axis of `source` samples to `target` samples."""
    return interpolation_matrix(
        source, target, source_length=source, target_length=target, align_corners=align_corners
    )


def resize_each(
    x: Float[Array, "n h w c"],
    source: Int[Array, "n 2"],
    target: Int[Array, "n 2"],
    space: Sequence[Dim],
    *,
    align_corners: Bool[Array, "n"],
) -> Float[Array, "n _ _ c"]:
    """Images of sizes `source` resized to `target`, in maps of size `space` with zeros outside.

    The result has the dtype of `x`; factors and sums are float32.
    """
    wide = float32_or_wider(x)

    def matrices(axis: int) -> Float[Array, "n to from"]:
        def one(source: Int[Array, ""], target: Int[Array, ""], aligned: Bool[Array, ""]) -> Array:
            sizes = {"source_length": x.shape[1 + axis], "target_length": space[axis]}
            forms = [
                interpolation_matrix(source, target, align_corners=aligns, **sizes)
                for aligns in (False, True)
            ]
            return jnp.where(aligned, forms[1], forms[0]).astype(wide.dtype)

        return jax.vmap(one)(source[:, axis], target[:, axis], align_corners)

    resized = jnp.einsum("nHh,nhwc,nWw->nHWc", matrices(0), wide, matrices(1))
    return resized.astype(x.dtype)
