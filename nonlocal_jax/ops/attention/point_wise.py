"""Attention whose logits are read from one position alone (Zhao et al., PSANet, ECCV 2018).

Position t gathers values v_s from all positions s of its image:

    z_t = sum_s a_ts v_s,    a_ts = softmax_s(L_ts)

    collect      L_ts = h_t . W[s - t]    t predicts what it needs from s
    distribute   L_ts = h_s . W[t - s]    s predicts what it gives to t

W has one vector for each offset, in rows and columns, that a mask reaches. Beyond it, L_ts is 0. In
the compact form the vectors belong to places instead: W[s] and W[t].

Neither L, [n, N, N], nor all h . W, [n, N, offsets], is held in memory: the sums are taken for one
row of positions t after another, and the backward pass computes the logits of each again.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.ops.attention.keys import products
from nonlocal_jax.ops.dims import known
from nonlocal_jax.ops.layout import on_each_device

Direction = Literal["collect", "distribute"]
Hidden = Float[Array, "n h w c"]
Value = Float[Array, "n h w d"]
Mask = Float[Array, "c rows columns"]
Logits = Float[Array, "n h t w"]  # of the positions t of a row, by the row and column of s


def point_wise_attention(
    hidden: Hidden,
    value: Value,
    mask: Mask,
    valid: Bool[Array, "n h w 1"],
    *,
    direction: Direction,
    compact: bool = False,
    softmax: bool = True,
    divisor: float = 1.0,
) -> Value:
    """z at all positions, in the dtype of `value`; logits, softmax and sums are float32.

    Args:
      hidden: h.
      value: v.
      mask: W. Offset 0 is at half its size, rounded down if that is odd and to the smaller of the
        two middle places otherwise.
      valid: which positions are in the images. Others give nothing.
      direction: which of both.
      compact: whether W belongs to places. There must be one for each position of `hidden`.
      softmax: whether a_ts is the softmax of L_ts, or L_ts itself.
      divisor: of the sums.
    """
    numbers = jnp.broadcast_to(jnp.arange(hidden.shape[1]), hidden.shape[:2])
    rows = (numbers, hidden) if direction == "collect" else (numbers,)
    attend = partial(_attend, direction, compact, softmax, divisor)
    return on_each_device(attend, rows, (hidden, value, valid), mask)


def weights_of_rows(
    hidden: Hidden,
    mask: Mask,
    valid: Bool[Array, "n h w 1"],
    rows: Int[Array, "n"],
    *,
    direction: Direction,
    compact: bool = False,
    softmax: bool = True,
) -> Float[Array, "n t h w"]:
    """a_ts of all t in one row of each image."""

    def one(
        hidden: Float[Array, "h w c"], valid: Bool[Array, "h w 1"], row: Int[Array, ""]
    ) -> Float[Array, "t h w"]:
        logits = _logits(direction, compact, hidden[None, row], hidden[None], mask, row)
        return jnp.moveaxis(_weights(logits, valid[None], softmax)[0], 1, 0)

    return jax.vmap(one)(hidden, valid, rows)


def _attend(
    direction: Direction,
    compact: bool,
    softmax: bool,
    divisor: float,
    rows: tuple[Array, ...],
    images: tuple[Hidden, Value, Bool[Array, "n h w 1"]],
    mask: Mask,
) -> Float[Array, "n own_rows w d"]:
    """z of some rows, on the device that holds them."""
    hidden, value, valid = images

    @jax.checkpoint
    def one(row: tuple[Array, ...]) -> Float[Array, "n w d"]:
        number, own = row[0][0], row[-1]  # the number is the same in all images
        logits = _logits(direction, compact, own, hidden, mask, number)
        weights = _weights(logits, valid, softmax).astype(value.dtype)
        return (products("nhtw,nhwd->ntd", weights, value) / divisor).astype(value.dtype)

    row_by_row = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), rows)
    return jnp.moveaxis(lax.map(one, row_by_row), 0, 1)


def _weights(logits: Logits, valid: Bool[Array, "n h w 1"], softmax: bool) -> Logits:
    of_sources = jnp.swapaxes(valid, 2, 3)
    if softmax:
        return jax.nn.softmax(logits, axis=(1, 3), where=of_sources)
    return jnp.where(of_sources, logits, 0.0)


def _logits(
    direction: Direction,
    compact: bool,
    own: Array,
    hidden: Hidden,
    mask: Mask,
    row: Int[Array, ""],
) -> Logits:
    """L of the positions t of a row, from h of that row (collect), or from h of the image."""
    _, height, width, _ = hidden.shape
    _, rows, columns = mask.shape
    if compact:
        if direction == "collect":
            return products("ntc,chw->nhtw", own, mask[:, :height, :width])
        return products("nhwc,ct->nhtw", hidden, mask[:, row, :width])
    middle_row, middle_column = (rows - 1) // 2, (columns - 1) // 2
    if not known(height, width):
        return _logits_by_index(direction, own, hidden, mask, row)
    before, after = max(0, height - 1 - middle_row), max(0, height + middle_row - rows)
    padded = jnp.pad(mask, ((0, 0), (before, after), (0, 0)))
    if direction == "collect":  # W[s - t] for the rows s = 0, 1, ...
        of_offsets = _rows(padded, before + middle_row - row, height)
        by_offset = products("ntc,chm->nhtm", own, of_offsets)
        return _by_place(by_offset, width, middle_column)
    # W[t - s]: the same from the end.
    of_offsets = _rows(padded[:, ::-1], after + rows - 1 - middle_row - row, height)
    by_offset = products("nhwc,chm->nhwm", hidden, of_offsets)
    return jnp.swapaxes(_by_place(by_offset, width, middle_column), 2, 3)


def _logits_by_index(
    direction: Direction, own: Array, hidden: Hidden, mask: Mask, row: Int[Array, ""]
) -> Logits:
    """`_logits` where height and width are symbols: each offset's number is read by its index."""
    _, height, width, _ = hidden.shape
    sign = 1 if direction == "collect" else -1  # s - t or t - s
    place = jnp.arange(width, dtype=jnp.int32)
    rows = (mask.shape[1] - 1) // 2 + sign * (jnp.arange(height, dtype=jnp.int32) - row)
    columns = (mask.shape[2] - 1) // 2 + place - place[:, None]
    of_offsets = _read(mask, rows[None, :, None], axis=1)
    if direction == "collect":
        by_offset = products("ntc,chm->nhtm", own, of_offsets)
        return _read(by_offset, columns[None, None], axis=3)
    by_offset = products("nhwc,chm->nhwm", hidden, of_offsets)
    return jnp.swapaxes(_read(by_offset, columns[None, None], axis=3), 2, 3)


def _read(x: Array, index: Int[Array, "..."], axis: int) -> Array:
    """The numbers at an index along an axis; 0 where it is beyond the ends."""
    inside = (index >= 0) & (index < x.shape[axis])
    taken = jnp.take_along_axis(x, index, axis=axis, mode="clip")
    return jnp.where(inside, taken, jnp.zeros((), x.dtype))


def _rows(mask: Mask, start: Int[Array, ""], count: int) -> Float[Array, "c {count} columns"]:
    rows: Array = lax.dynamic_slice_in_dim(mask, start, count, axis=1)
    return rows


def _by_place(
    by_offset: Float[Array, "n h width m"], width: int, middle: int
) -> Float[Array, "n h width width"]:
    """result[..., i, j] = by_offset[..., i, j - i + middle], and 0 beyond the offsets.

    Read with rows that are one number shorter, an array has each row one place further right.
    """
    columns = by_offset.shape[-1]
    before, after = max(0, width - 1 - middle), max(0, width + middle - columns) + 1
    wide = jnp.pad(by_offset, ((0, 0), (0, 0), (0, 0), (before, after)))
    n, h, _, length = wide.shape
    flat = wide.reshape(n, h, -1)[..., before + middle :]
    needed = width * (length - 1)
    flat = jnp.pad(flat, ((0, 0), (0, 0), (0, max(0, needed - flat.shape[-1]))))[..., :needed]
    return flat.reshape(n, h, width, length - 1)[..., :width]
