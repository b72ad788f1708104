"""Softmax attention on GPUs: cuDNN's fused kernel, which holds no [queries, keys] matrix.

Products are taken in the inputs' dtype with float32 sums; the softmax is float32.
"""

import functools

import jax
import jax.numpy as jnp

from nonlocal_jax.errors import UserError
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.attention.keys import Key, KeyValid, Output, Query, Value


def cudnn_supports(query: Query, value: Value) -> bool:
    """Whether cuDNN has a kernel for such arrays on the GPU of this process.

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
    """Softmax attention; `value` must be zero already where `key_valid` is False.

    Raises:
      UserError: this process's GPU has no such kernel.
    """
    if jax.default_backend() == "gpu" and not cudnn_supports(query, value):
        raise UserError(
            f"cuDNN has no attention for {query.dtype} queries of {query.shape[-1]} channels "
            f"on this GPU (compute capability {jax.devices()[0].compute_capability}). "
            "Leave config.model.decode_head.implementation at auto."
        )
    kernel = functools.partial(_cudnn, scale)  # XLA can't split it over devices by itself
    return layout.on_each_device(kernel, query, (key, value, key_valid))


def _cudnn(scale: float, query: Query, keys: tuple[Key, Value, KeyValid | None]) -> Output:
    key, value, key_valid = keys
    lengths = None
    if key_valid is not None:
        # cuDNN masks by length, so valid keys go first. Their order does not change the sum.
        order = jnp.argsort(~key_valid, axis=-1, stable=True)[..., None]
        key, value = (jnp.take_along_axis(x, order, axis=1) for x in (key, value))
        lengths = jnp.maximum(jnp.sum(key_valid, axis=-1, dtype=jnp.int32), 1)
    one_head = (x[:, :, None, :] for x in (query, key, value))
    result = jax.nn.dot_product_attention(
        *one_head, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return result[:, :, 0, :]
