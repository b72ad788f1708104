"""Softmax attention on any device: plain XLA, a chunk of queries at a time.

At 1024x2048 pixels the non-local block has N = 32768 positions, and N x N float32 weights would
take 4 GiB an image.

Chunks are *interleaved*: chunk s holds the positions s, s + chunks, s + 2 * chunks, ... So if the
query axis is sharded, each chunk is sharded in equal parts, and all devices work on each chunk.
Contiguous chunks would lie on one device each.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from nonlocal_jax.ops.attention.keys import Key, KeyValid, Output, Query, Value, products
from nonlocal_jax.ops.blocks import in_blocks
from nonlocal_jax.ops.dims import known

# Bytes of float32 logits of a chunk of an image's queries, and the fewest queries that make a
# matrix product efficient. Measured on two AVX-512 cores with 256 channels: 128 to 1024 queries are
# equally fast at N = 4096 and 8192, and 128 the fastest at N = 32768.
CHUNK_BYTES = 16 * 2**20
MIN_CHUNK = 128


def chunked_attention(
    query: Query, key: Key, value: Value, *, scale: float, key_valid: KeyValid | None
) -> Output:
    """Softmax attention; the backward pass computes the weights of each chunk again."""

    def attend_rows(rows: Query) -> Float[Array, "n rows d"]:
        return _attend(rows, key, value, scale, key_valid)

    # Kept for the backward pass are the outputs and two numbers a row, so that recomputing a
    # chunk's weights takes one of the two matrix products.
    keep = jax.checkpoint_policies.save_only_these_names("row_sums")
    attend: Callable[[Query], Output] = jax.checkpoint(attend_rows, policy=keep)
    length, keys = query.shape[1], key.shape[1]
    if not known(length, keys):
        return in_blocks(attend_rows, query, MIN_CHUNK)
    chunks = -(-length // max(MIN_CHUNK, CHUNK_BYTES // (4 * keys)))
    if chunks == 1:
        return attend(query)
    outputs = jax.lax.map(attend, _interleaved_chunks(query, chunks))
    outputs = jnp.moveaxis(outputs, 0, 2)
    return outputs.reshape(query.shape[0], -1, value.shape[2])[:, :length]


def _interleaved_chunks(query: Query, chunks: int) -> Float[Array, "{chunks} n rows c"]:
    """The queries as interleaved chunks. If N does not divide, some chunks end with zeros."""
    batch, length, channels = query.shape
    rows = -(-length // chunks)
    padded = jnp.pad(query, ((0, 0), (0, rows * chunks - length), (0, 0)))
    return jnp.moveaxis(padded.reshape(batch, rows, chunks, channels), 2, 0)


def _attend(
    query: Query, key: Key, value: Value, scale: float, key_valid: KeyValid | None
) -> Output:
    logits = products("nqc,nkc->nqk", query, key) * scale
    if key_valid is not None:
        # Finite, so a row without any valid key has no NaN.
        logits = jnp.where(key_valid[:, None, :], logits, np.finfo(logits.dtype).min)
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - checkpoint_name(peak, "row_sums"))
    total = checkpoint_name(jnp.sum(weights, axis=-1, keepdims=True), "row_sums")
    summed = products("nqk,nkd->nqd", weights.astype(value.dtype), value)
    # Dividing the sums instead of the weights saves a pass over the largest array.
    result: Array = checkpoint_name(summed, "row_sums") / total
    return result.astype(value.dtype)
