"""What training keeps of the forward pass for the backward pass, and what it computes again.

    remat     kept                                           computed again
    "none"    whatever XLA finds useful                      nothing
    "norms"   what convolutions return, means, variances     norms, ReLUs, pooling, concatenation
    "blocks"  what residual blocks return                    everything inside of them

Left alone, a convolution with its norm and ReLU keeps three arrays: the convolution's result, the
ReLU's mask, and what comes out. "norms" keeps the first, and computes the others again from it.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["auto", "none", "norms", "blocks"]  # models/build.py decides what "auto" is
KEPT = "kept"


def keep(x: jax.Array) -> jax.Array:
    """`x`, marked as one of the arrays that "norms" keeps."""
    kept: jax.Array = checkpoint_name(x, KEPT)
    return kept


def rematerialized(function: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """`function` with another backward pass: the same gradients from fewer arrays in memory.

    Its first argument is the module that it applies, whose statistics are updated once.
    """
    if remat == "none":
        return function
    policy = jax.checkpoint_policies.save_only_these_names(KEPT) if remat == "norms" else None
    return nnx.remat(function, policy=policy)
