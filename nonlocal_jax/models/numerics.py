"""What all parts of a network share: dtypes, rematerialisation, random numbers, resizing."""

from dataclasses import dataclass
from typing import TypedDict

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from nonlocal_jax.models.remat import Remat


class LayerNumerics(TypedDict):
    """The keywords that layers take."""

    dtype: DTypeLike
    param_dtype: DTypeLike
    rngs: nnx.Rngs


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Dtypes, memory, random numbers and resizing."""

    rngs: nnx.Rngs
    """For initial parameters."""
    dtype: DTypeLike = jnp.float32
    """Compute dtype."""
    param_dtype: DTypeLike = jnp.float32
    """Dtype of the parameters."""
    remat: Remat = "none"
    """What the backward pass computes again, see remat.py."""
    align_corners: bool = False
    """How a head that resizes feature maps does it bilinearly, as for the logits."""

    @property
    def of_layers(self) -> LayerNumerics:
        """As keywords: `Conv(3, 8, 1, **numerics.of_layers)`."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype, "rngs": self.rngs}
