"""Softmax attention by the fused kernels of accelerators: cuDNN's on GPUs, Pallas's on TPUs.

Each computes what `ops.attention.softmax_attention` documents, and keeps the [queries, keys]
matrix in on-chip memory. Products are taken in the inputs' dtype with float32 sums; the softmax
is float32. `value` must be zero already where `key_valid` is False.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as pallas
from jaxtyping import Array, Bool, Float

from nonlocal_jax.ops import layout

Query = Float[Array, "n q c"]
Key = Float[Array, "n k c"]
Value = Float[Array, "n k d"]
KeyValid = Bool[Array, "n k"]
Output = Float[Array, "n q d"]

# A block of queries or keys on the TPU; shorter arrays are one block, a multiple of the register
# width. With the kernel's default of 128, the grid at N = 32768 has 16 times as many steps.
TPU_BLOCK = 512
TPU_LANES = 128


def cudnn_supports(query: Query, value: Value) -> bool:
    """Whether the GPU of this process has cuDNN's kernel for such arrays.

    It takes 16-bit floats only, and 256 channels from compute capability 9.0 on (128 before).
    """
    channels, capability = query.shape[-1], float(jax.devices()[0].compute_capability)
    return (
        query.dtype in (jnp.bfloat16, jnp.float16)
        and channels == value.shape[-1]
        and channels % 8 == 0
        and channels <= (256 if capability >= 9 else 128)
    )


def cudnn_attention(
    query: Query, key: Key, value: Value, *, scale: float, key_valid: KeyValid | None
) -> Output:
    """Softmax attention by cuDNN."""
    return _on_each_device(functools.partial(_cudnn, scale), query, key, value, key_valid)


def pallas_attention(
    query: Query, key: Key, value: Value, *, scale: float, key_valid: KeyValid | None
) -> Output:
    """Softmax attention by Pallas's TPU kernel."""
    return _on_each_device(functools.partial(_pallas, scale), query, key, value, key_valid)


def _on_each_device(
    kernel: Callable[[Query, Key, Value, KeyValid | None], Output],
    query: Query,
    key: Key,
    value: Value,
    key_valid: KeyValid | None,
) -> Output:
    """`kernel` on each device's own images and queries: XLA can't split it by itself."""
    return layout.on_each_device(
        lambda query, keys: kernel(query, *keys), query, (key, value, key_valid)
    )


def _cudnn(
    scale: float, query: Query, key: Key, value: Value, key_valid: KeyValid | None
) -> Output:
    lengths = None
    if key_valid is not None:
        # cuDNN masks by length. A sum over keys does not mind their order: valid ones go first.
        order = jnp.argsort(~key_valid, axis=-1, stable=True)[..., None]
        key, value = (jnp.take_along_axis(x, order, axis=1) for x in (key, value))
        lengths = jnp.maximum(jnp.sum(key_valid, axis=-1, dtype=jnp.int32), 1)
    one_head = (x[:, :, None, :] for x in (query, key, value))
    result = jax.nn.dot_product_attention(
        *one_head, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return result[:, :, 0, :]


def _pallas(
    scale: float, query: Query, key: Key, value: Value, key_valid: KeyValid | None
) -> Output:
    queries, channels = query.shape[1], value.shape[2]
    if key_valid is None:
        key_valid = jnp.ones(key.shape[:2], bool)
    # The kernel wants whole blocks, and as many channels in the keys as in the values.
    width = _round_up(max(query.shape[2], channels), TPU_LANES)
    query, key, value = (_pad(_whole_blocks(x), 2, width) for x in (query, key, value))
    block_q, block_k = min(TPU_BLOCK, query.shape[1]), min(TPU_BLOCK, key.shape[1])
    blocks = pallas.BlockSizes(
        block_b=1,
        **dict.fromkeys(("block_q", "block_q_major_dkv", "block_q_dkv", "block_q_dq"), block_q),
        **dict.fromkeys(("block_k_major", "block_k", "block_k_major_dkv"), block_k),
        **dict.fromkeys(("block_k_dkv", "block_k_major_dq", "block_k_dq"), block_k),
    )
    # Queries attend to the keys of their own segment, 1; what is padding is of segment 0.
    segments = pallas.SegmentIds(
        q=jnp.ones(query.shape[:2], jnp.int32),
        kv=_pad(key_valid, 1, key.shape[1]).astype(jnp.int32),
    )
    one_head = (x[:, None] for x in (query, key, value))
    result = pallas.flash_attention(
        *one_head, segment_ids=segments, sm_scale=scale, block_sizes=blocks
    )
    return result[:, 0, :queries, :channels]


def _whole_blocks(x: Float[Array, "n l c"]) -> Float[Array, "n L c"]:
    multiple = TPU_BLOCK if x.shape[1] > TPU_BLOCK else TPU_LANES
    return _pad(x, 1, _round_up(x.shape[1], multiple))


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(x: Array, axis: int, length: int) -> Array:
    """`x` with zeros (or False) up to `length`."""
    return jnp.pad(x, [(0, length - x.shape[i] if i == axis else 0) for i in range(x.ndim)])
