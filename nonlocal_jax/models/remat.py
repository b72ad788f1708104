"""What the backward pass reads from memory, and what it computes again.

    remat     kept in memory                                 computed again
    "none"    what JAX's derivatives keep                    nothing
    "norms"   results of convolutions, means, variances      norms, ReLUs, pooling, concatenation
    "blocks"  results of residual blocks                     everything inside of the blocks

By default, a convolution with its norm and ReLU keeps three arrays: the result of the convolution,
the mask of the ReLU, and the result of the ReLU. "norms" keeps the first of them.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["auto", "none", "norms", "blocks"]  # network.for_platform replaces "auto"
KEPT = "kept"


def keep(x: jax.Array) -> jax.Array:
    """`x`, marked as one of the arrays that "norms" keeps."""
    kept: jax.Array = checkpoint_name(x, KEPT)
    return kept


def rematerialized(function: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """`function` with a backward pass that keeps fewer arrays; the gradients are the same.

    The first argument of `function` is the module that it applies. Its statistics are updated once.
    """
    if remat == "none":
        return function
    policy = jax.checkpoint_policies.save_only_these_names(KEPT) if remat == "norms" else None
    return nnx.remat(function, policy=policy)
