"""Softmax attention on TPUs: Pallas's fused kernel, which holds no [queries, keys] matrix.

Products are taken in the inputs' dtype with float32 sums; the softmax is float32.
"""

import functools

import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as flash
from jaxtyping import Array, Float

from nonlocal_jax.ops import layout
from nonlocal_jax.ops.attention.keys import Key, KeyValid, Output, Query, Value

# Queries or keys in a block on the TPU. Shorter arrays are one block, a multiple of the register
# width. With the kernel's default of 128, the grid at N = 32768 has 16 times as many steps.
BLOCK = 512
LANES = 128


def pallas_attention(
    query: Query, key: Key, value: Value, *, scale: float, key_valid: KeyValid | None
) -> Output:
    """Softmax attention; `value` must be zero already where `key_valid` is False."""
    kernel = functools.partial(_pallas, scale)  # XLA can't split it over devices by itself
    return layout.on_each_device(kernel, query, (key, value, key_valid))


def _pallas(scale: float, query: Query, keys: tuple[Key, Value, KeyValid | None]) -> Output:
    key, value, key_valid = keys
    queries, channels = query.shape[1], value.shape[2]
    if key_valid is None:
        key_valid = jnp.ones(key.shape[:2], bool)
    # The kernel needs whole blocks, and the same number of channels in keys and values.
    width = _round_up(max(query.shape[2], channels), LANES)
    query, key, value = (_pad(_whole_blocks(x), 2, width) for x in (query, key, value))
    block_q, block_k = min(BLOCK, query.shape[1]), min(BLOCK, key.shape[1])
    blocks = flash.BlockSizes(
        block_b=1,
        **dict.fromkeys(("block_q", "block_q_major_dkv", "block_q_dkv", "block_q_dq"), block_q),
        **dict.fromkeys(("block_k_major", "block_k", "block_k_major_dkv"), block_k),
        **dict.fromkeys(("block_k_dkv", "block_k_major_dq", "block_k_dq"), block_k),
    )
    # Queries attend to the keys of their own segment, 1. Padding is segment 0.
    segments = flash.SegmentIds(
        q=jnp.ones(query.shape[:2], jnp.int32),
        kv=_pad(key_valid, 1, key.shape[1]).astype(jnp.int32),
    )
    one_head = (x[:, None] for x in (query, key, value))
    result: Output = flash.flash_attention(
        *one_head, segment_ids=segments, sm_scale=scale, block_sizes=blocks
    )
    return result[:, 0, :queries, :channels]


def _whole_blocks(x: Float[Array, "n l c"]) -> Float[Array, "n L c"]:
    multiple = BLOCK if x.shape[1] > BLOCK else LANES
    return _pad(x, 1, _round_up(x.shape[1], multiple))


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(x: Array, axis: int, length: int) -> Array:
    """`x` with zeros (or False) up to `length`."""
    return jnp.pad(x, [(0, length - x.shape[i] if i == axis else 0) for i in range(x.ndim)])
