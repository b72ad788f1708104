"""The pairwise function theta . phi: without a softmax, the product is associative."""

import jax.numpy as jnp

from nonlocal_jax.ops.attention.keys import (
    Key,
    KeyValid,
    Output,
    Query,
    Value,
    count_keys,
    products,
    zero_values,
)


def dot_product_attention(
    query: Query, key: Key, value: Value, *, key_valid: KeyValid | None = None
) -> Output:
    """1/N sum_j (query_i . key_j) value_j over the N valid keys, in the dtype of `value`.

    There is no softmax between the two products, so they can be computed in the other order:
    query (key^T value) takes O(N c d).
    """
    value = zero_values(value, key_valid)
    moments = products("nkc,nkd->ncd", key, value) / count_keys(key, key_valid)
    return products("nqc,ncd->nqd", query.astype(jnp.float32), moments).astype(value.dtype)
