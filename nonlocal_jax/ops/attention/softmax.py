"""Sums over all keys for every query, without ever holding the [queries, keys] matrix.

At 1024x2048 pixels the non-local block has N = 32768 positions, and N x N float32 weights would
take 4 GiB an image. Each function here means exactly what its docstring's formula says; softmax
and all sums are float32 whatever the inputs' dtype.

Query chunks are *interleaved*: chunk s holds the positions s, s + chunks, s + 2 * chunks, ... A
query axis that is sharded over devices is so split in equal parts inside every chunk, and the
loop over chunks runs on all devices at once instead of walking from one device to the next.
"""

import functools
import logging
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from nonlocal_jax.ops.attention import flash
from nonlocal_jax.ops.dtypes import wide

Implementation = Literal["auto", "chunked", "cudnn", "pallas"]

# Bytes of float32 logits that one chunk of an image's queries may take, and the fewest queries
# that keep a matrix product busy. Measured on two AVX-512 cores with 256 channels: 128 to 1024
# queries are equally fast at N = 4096 and 8192, and 128 the fastest at N = 32768.
CHUNK_BYTES = 16 * 2**20
MIN_CHUNK = 128

Query = Float[Array, "n q c"]
Key = Float[Array, "n k c"]
Value = Float[Array, "n k d"]
KeyValid = Bool[Array, "n k"]


def softmax_attention(
    query: Query,
    key: Key,
    value: Value,
    *,
    scale: float = 1.0,
    key_valid: KeyValid | None = None,
    implementation: str = "auto",
) -> Float[Array, "n q d"]:
    """sum_j softmax_j(scale * query_i . key_j) value_j, in the dtype of `value`.

    Keys where `key_valid` is False are left out of the softmax, whatever finite numbers they hold;
    without any valid key the sum is 0. Memory is O(N) in both passes.

    `implementation` is 'chunked' (plain XLA, any device and dtype), 'cudnn' (GPUs, 16-bit floats),
    'pallas' (TPUs), or 'auto': what this process's default device has for the arrays' dtype. The
    choice is logged. Compiling ahead of time for another device needs it named. Kernels are split
    over several devices inside `jax.set_mesh(mesh)`; chunks need no such help.

    Raises:
      ValueError: there is no such implementation.
    """
    if key_valid is not None:
        value = jnp.where(key_valid[..., None], value, jnp.zeros((), value.dtype))
    chosen = _choose(query, value) if implementation == "auto" else implementation
    _log_choice(chosen, str(query.dtype), query.shape[1:])
    if chosen == "cudnn":
        return flash.cudnn_attention(query, key, value, scale=scale, key_valid=key_valid)
    if chosen == "pallas":
        return flash.pallas_attention(query, key, value, scale=scale, key_valid=key_valid)
    if chosen == "chunked":
        return _chunked(query, key, value, scale, key_valid)
    raise ValueError(f"attention {chosen!r} is none of {', '.join(get_args(Implementation))}")


def _choose(query: Query, value: Value) -> Implementation:
    """Kernels multiply in 16 bits: float32 stays with XLA, which honours the chosen precision."""
    platform = jax.default_backend()
    if platform == "gpu" and flash.cudnn_supports(query, value):
        return "cudnn"
    can_split = jax.device_count() == 1 or not jax.sharding.get_abstract_mesh().empty
    if platform == "tpu" and query.dtype == jnp.bfloat16 and can_split:
        return "pallas"
    return "chunked"


@functools.cache
def _log_choice(chosen: str, dtype: str, shape: tuple[int, ...]) -> None:
    logging.getLogger(__name__).info("attention: %s for %s queries %s", chosen, dtype, shape)


def _chunked(
    query: Query, key: Key, value: Value, scale: float, key_valid: KeyValid | None
) -> Float[Array, "n q d"]:
    """Chunks of queries one after another; the backward pass computes their weights again."""

    def attend_rows(rows: Query) -> Float[Array, "n rows d"]:
        return _attend(rows, key, value, scale, key_valid)

    # Kept for the backward pass are the outputs and two numbers a row, so that recomputing a
    # chunk's weights takes one of the two matrix products.
    keep = jax.checkpoint_policies.save_only_these_names("row_sums")
    attend = jax.checkpoint(attend_rows, policy=keep)
    length, keys = query.shape[1], key.shape[1]
    chunks = -(-length // max(MIN_CHUNK, CHUNK_BYTES // (4 * keys)))
    if chunks == 1:
        return attend(query)
    outputs = jax.lax.map(attend, _interleaved_chunks(query, chunks))
    outputs = jnp.moveaxis(outputs, 0, 2)
    return outputs.reshape(query.shape[0], -1, value.shape[2])[:, :length]


def _interleaved_chunks(query: Query, chunks: int) -> Float[Array, "{chunks} n rows c"]:
    """Queries dealt to chunks in turn; the last ones of some chunks are zeros where N is odd."""
    batch, length, channels = query.shape
    rows = -(-length // chunks)
    padded = jnp.pad(query, ((0, 0), (0, rows * chunks - length), (0, 0)))
    return jnp.moveaxis(padded.reshape(batch, rows, chunks, channels), 2, 0)


def _attend(
    query: Query, key: Key, value: Value, scale: float, key_valid: KeyValid | None
) -> Float[Array, "n q d"]:
    logits = _products("nqc,nkc->nqk", query, key) * scale
    if key_valid is not None:
        # Finite, so that a row without any valid key stays free of NaN.
        logits = jnp.where(key_valid[:, None, :], logits, jnp.finfo(logits.dtype).min)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - checkpoint_name(peak, "row_sums"))
    total = checkpoint_name(jnp.sum(weights, axis=-1, keepdims=True), "row_sums")
    summed = _products("nqk,nkd->nqd", weights.astype(value.dtype), value)
    # Dividing the sums, not the weights, saves one pass over the largest array.
    return (checkpoint_name(summed, "row_sums") / total).astype(value.dtype)


def dot_product_attention(
    query: Query, key: Key, value: Value, *, key_valid: KeyValid | None = None
) -> Float[Array, "n q d"]:
    """1/N sum_j (query_i . key_j) value_j over the N valid keys, in the dtype of `value`.

    There is no softmax between the two products, so that they may be taken in the other order:
    query (key^T value) is O(N c d).
    """
    if key_valid is not None:
        value = jnp.where(key_valid[..., None], value, jnp.zeros((), value.dtype))
    moments = _products("nkc,nkd->ncd", key, value) / count_keys(key, key_valid)
    return _products("nqc,ncd->nqd", query.astype(jnp.float32), moments).astype(value.dtype)


def count_keys(key: Float[Array, "n k ..."], key_valid: KeyValid | None) -> Float[Array, "n 1 1"]:
    """The N that the modes without softmax divide by: each image's number of keys, at least 1."""
    if key_valid is None:
        return jnp.full((key.shape[0], 1, 1), float(key.shape[1]))
    counts = jnp.sum(key_valid, axis=-1, dtype=jnp.float32)
    return jnp.maximum(counts, 1.0)[:, None, None]


def _products(equation: str, a: Array, b: Array) -> Float[Array, "..."]:
    return jnp.einsum(equation, a, b, preferred_element_type=wide(a.dtype))
