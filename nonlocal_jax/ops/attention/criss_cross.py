"""Attention of each position to its row and its column (Huang et al., CCNet, arXiv 1811.11721).

A position attends to h + w - 1 positions. So the weights of an image take N (h + w) numbers for its
N positions. It lies in its row and in its column, and is left out of the column.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.ops.attention.keys import products
from nonlocal_jax.ops.layout import on_each_device, whole_rows
from nonlocal_jax.ops.padding import Valid, valid_mask

Query = Float[Array, "n h w c"]
Value = Float[Array, "n h w d"]
Map = Float[Array, "n h w"]


class Rows(NamedTuple):
    """What a device holds: some rows of each image."""

    query: Float[Array, "n rows w c"]
    key: Float[Array, "n rows w c"]
    value: Float[Array, "n rows w d"]
    inside: Bool[Array, "n rows w"]
    number: Int[Array, "n rows"]


class Columns(NamedTuple):
    """What all devices hold: keys and values of all rows."""

    key: Float[Array, "n h w c"]
    value: Float[Array, "n h w d"]
    inside: Bool[Array, "n h w"]


class Weights(NamedTuple):
    """The softmax of each position, over its column and over its row."""

    column: Float[Array, "n rows w h"]
    row: Float[Array, "n rows w w"]


def criss_cross_attention(
    query: Query, key: Query, value: Value, *, valid: Valid | None = None
) -> Value:
    """sum_j softmax_j(query_i . key_j) value_j, j in the row or the column of i; `value`'s dtype.

    Softmax and sums are float32 or wider. Positions outside of `valid` are left out; they may hold
    any finite numbers, and the result there has no meaning. If a mesh splits the rows of an image,
    each device gets the keys and values of all rows.
    """
    rows, columns = _parts(query, key, value, valid)
    return on_each_device(_attend, rows, columns)


def criss_cross_spread(weights: Map, query: Query, key: Query, valid: Valid | None = None) -> Map:
    """sum_i weights_i softmax_j(query_i . key_j) for each position j, in float32 or wider.

    For a map that is 1 at one position, it is what that position attends to.
    """
    found = _weights(*_parts(query, key, key, valid))
    along_columns = jnp.einsum("nhw,nhwi->niw", weights, found.column)
    along_rows = jnp.einsum("nhw,nhwj->nhj", weights, found.row)
    return along_columns + along_rows


def _parts(query: Query, key: Query, value: Value, valid: Valid | None) -> tuple[Rows, Columns]:
    n, h, w = query.shape[:3]
    inside = jnp.ones((n, h, w), bool)
    if valid is not None:
        inside = valid_mask(valid, (h, w))[..., 0]
        value = jnp.where(inside[..., None], value, jnp.zeros((), value.dtype))
    numbers = jnp.broadcast_to(jnp.arange(h, dtype=jnp.int32), (n, h))
    rows = Rows(query, key, value, inside, numbers)
    return rows, Columns(whole_rows(key), whole_rows(value), inside)


def _attend(rows: Rows, columns: Columns) -> Value:
    column, row = (weights.astype(rows.value.dtype) for weights in _weights(rows, columns))
    summed = products("nhwi,niwd->nhwd", column, columns.value)
    summed += products("nhwj,nhjd->nhwd", row, rows.value)
    return summed.astype(rows.value.dtype)


def _weights(rows: Rows, columns: Columns) -> Weights:
    column = products("nhwc,niwc->nhwi", rows.query, columns.key)
    row = products("nhwc,nhjc->nhwj", rows.query, rows.key)
    others = rows.number[:, :, None] != jnp.arange(column.shape[-1], dtype=jnp.int32)
    of_column = others[:, :, None, :] & jnp.moveaxis(columns.inside, 1, 2)[:, None]
    of_row = rows.inside[:, :, None, :]
    # Finite, so that a position outside of the image, which may have no key, has no NaN.
    least = np.finfo(row.dtype).min
    column, row = jnp.where(of_column, column, least), jnp.where(of_row, row, least)
    peak = jnp.maximum(jnp.max(column, axis=-1), jnp.max(row, axis=-1))[..., None]
    column, row = jnp.exp(column - peak), jnp.exp(row - peak)
    total = jnp.sum(column, axis=-1, keepdims=True) + jnp.sum(row, axis=-1, keepdims=True)
    return Weights(column / total, row / total)
