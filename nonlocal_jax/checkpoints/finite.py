"""Values that a network cannot compute with."""

from collections.abc import Mapping

import numpy as np


def not_finite(variables: Mapping[str, np.ndarray | int | float]) -> list[str]:
    """Names of the variables that have NaN or infinite values, or values that overflow float32."""
    return [name for name, value in variables.items() if not _is_finite(np.asarray(value))]


def _is_finite(value: np.ndarray) -> bool:
    if value.dtype == np.float64:
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
    return bool(np.isfinite(value).all())
