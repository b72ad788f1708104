"""Equal modules are traced once, however often they occur: R-101's 33 blocks are 8 programs.

XLA sees the same program as without: it inlines the calls before anything else.
"""

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.models.layers import updates_statistics
from nonlocal_jax.ops.padding import Valid

Features = Float[Array, "n h w c"]
Apply = Callable[[nnx.Module, Features, Valid | None], Features]


def traced_once(apply: Apply) -> Apply:
    """`apply`, which calls a module, traced once for all modules that differ only in their arrays.

    In training, batch norms' statistics are updated as they would be.
    """

    @partial(jax.jit, static_argnums=0)
    def pure(
        graph: nnx.GraphDef, state: nnx.State, x: Features, valid: Valid | None
    ) -> tuple[Features, nnx.State]:
        module = nnx.merge(graph, state)
        y = apply(module, x, valid)
        return y, nnx.state(module, nnx.BatchStat)

    def applied(module: nnx.Module, x: Features, valid: Valid | None) -> Features:
        graph, state = nnx.split(module)
        y, statistics = pure(graph, state, x, valid)
        if updates_statistics(module):  # in evaluation a loop around this forbids writing
            nnx.update(module, statistics)
        return y

    return applied
