"""Types of the arguments of attention functions, and masking and counting of keys."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nonlocal_jax.ops.dtypes import wide

Query = Float[Array, "n q c"]
Key = Float[Array, "n k c"]
Value = Float[Array, "n k d"]
KeyValid = Bool[Array, "n k"]
Output = Float[Array, "n q d"]


def zero_values(value: Value, key_valid: KeyValid | None) -> Value:
    """`value` with zeros where the key is not valid."""
    if key_valid is None:
        return value
    return jnp.where(key_valid[..., None], value, jnp.zeros((), value.dtype))


def count_keys(key: Float[Array, "n k ..."], key_valid: KeyValid | None) -> Float[Array, "n 1 1"]:
    """The N of the modes without softmax: the number of valid keys of each image, at least 1."""
    if key_valid is None:
        return jnp.full((key.shape[0], 1, 1), jnp.asarray(key.shape[1], float))
    counts = jnp.sum(key_valid, axis=-1, dtype=jnp.float32)
    return jnp.maximum(counts, 1.0)[:, None, None]


def products(equation: str, a: Array, b: Array) -> Float[Array, "..."]:
    """The einsum of two arrays, summed and returned in float32 or wider."""
    return jnp.einsum(equation, a, b, preferred_element_type=wide(a.dtype))
