"""Dimensions of arrays that are numbers, or symbols of a function that is exported.

`jax.export` traces a function for images of any size. Their height is a symbol there: it can be
calculated with, but it can't be compared.
"""

from typing import Any

import jax

Dim = Any
"""An int, or a symbolic dimension of `jax.export`."""


def known(*dims: Dim) -> bool:
    """Whether all dimensions are numbers."""
    return all(isinstance(dim, int) for dim in dims)


def larger(first: Dim, second: Dim) -> Dim:
    """max(first, second)."""
    return jax.core.max_dim(first, second)


def smaller(first: Dim, second: Dim) -> Dim:
    """min(first, second)."""
    return jax.core.min_dim(first, second)
