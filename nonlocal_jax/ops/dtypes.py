"""Which precision what must be exact is computed in."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> DTypeLike:
    """float32, or float64 for itself: tests compare gradients in it."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def float32_or_wider(x: jax.Array) -> jax.Array:
    """`x` in `wide(x.dtype)`."""
    return x.astype(wide(x.dtype))
