"""Softmax attention without the [queries, keys] matrix, by the kernel of the platform.

    chunked   any device and dtype: plain XLA, see chunked.py
    cudnn     GPUs, 16-bit floats: see cudnn.py
    pallas    TPUs: see pallas.py

Softmax and sums are float32 in all of them.
"""

import functools
import logging
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from nonlocal_jax.ops.attention.chunked import chunked_attention
from nonlocal_jax.ops.attention.cudnn import cudnn_attention, cudnn_supports
from nonlocal_jax.ops.attention.keys import Key, KeyValid, Output, Query, Value, zero_values
from nonlocal_jax.ops.attention.pallas import pallas_attention
from nonlocal_jax.ops.dims import Dim

Implementation = Literal["auto", "chunked", "cudnn", "pallas"]


_ATTENTION = {
    "chunked": chunked_attention,
    "cudnn": cudnn_attention,
    "pallas": pallas_attention,
}


def softmax_attention(
    query: Query,
    key: Key,
    value: Value,
    *,
    scale: float = 1.0,
    key_valid: KeyValid | None = None,
    implementation: str = "auto",
) -> Output:
    """sum_j softmax_j(scale * query_i . key_j) value_j, in the dtype of `value`.

    Keys where `key_valid` is False are left out of the softmax; they may hold any finite numbers.
    Without a valid key the sum is 0. Memory is O(N) in both passes.

    `implementation` is 'chunked' (plain XLA, any device and dtype), 'cudnn' (GPUs, see cudnn.py),
    'pallas' (TPUs), or 'auto': the kernel of this process's default device for the dtype of the
    arrays. The choice is logged. Name one to compile ahead of time for another device. Inside
    `jax.set_mesh(mesh)`, kernels are split over several devices. XLA splits 'chunked' by itself.

    Raises:
      ValueError: there is no such implementation.
    """
    value = zero_values(value, key_valid)
    chosen = _choose(query, value) if implementation == "auto" else implementation
    _log_choice(chosen, str(query.dtype), query.shape[1:])
    if chosen not in _ATTENTION:
        raise ValueError(f"attention {chosen!r} is none of {', '.join(get_args(Implementation))}")
    return _ATTENTION[chosen](query, key, value, scale=scale, key_valid=key_valid)


def _choose(query: Query, value: Value) -> Implementation:
    """The kernel for "auto". Kernels multiply in 16 bits, so float32 takes XLA's products."""
    platform = jax.default_backend()
    if platform == "gpu" and cudnn_supports(query, value):
        return "cudnn"
    can_split = jax.device_count() == 1 or not jax.sharding.get_abstract_mesh().empty
    if platform == "tpu" and query.dtype == jnp.bfloat16 and can_split:
        return "pallas"
    return "chunked"


@functools.cache
def _log_choice(chosen: str, dtype: str, shape: tuple[Dim, ...]) -> None:
    log = logging.getLogger(__name__)
    log.info("Attention kernel: %s, for %s queries of shape %s.", chosen, dtype, shape)
