"""The dtype of computations that need more precision than the compute dtype."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> np.dtype[Any]:
    """float32; float64 for float64, in which tests compare gradients."""
    return np.dtype(np.float64 if dtype == jnp.float64 else np.float32)


def float32_or_wider(x: jax.Array) -> jax.Array:
    """`x` in `wide(x.dtype)`."""
    return x.astype(wide(x.dtype))
