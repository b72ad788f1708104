"""Equal modules are traced once, however often they occur: R-101's 33 blocks are 8 programs.

XLA sees the same program as without: it inlines the calls before anything else.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.models.layers import updates_statistics
from nonlocal_jax.ops.padding import Valid

Features = Float[Array, "n h w c"]
Results = Float[Array, "n h_out w_out o"]
Graph = nnx.GraphDef[nnx.Module]
State = nnx.State[Any, Any]
Apply = Callable[[nnx.Module, Features, Valid | None], Results]


def functional(
    apply: Apply,
) -> Callable[[Graph, State, Features, Valid | None], tuple[Results, State]]:
    """`apply` of a module in two parts, from `nnx.split`; it returns the statistics, too."""

    def pure(graph: Graph, state: State, x: Features, valid: Valid | None) -> tuple[Results, State]:
        module = nnx.merge(graph, state)
        y = apply(module, x, valid)
        return y, nnx.state(module, nnx.BatchStat)

    return pure


def traced_once(apply: Apply) -> Apply:
    """`apply`, which calls a module, traced once for all modules that differ only in their arrays.

    In training, batch norms' statistics are updated as they would be.
    """
    pure = jax.jit(functional(apply), static_argnums=0)

    def applied(module: nnx.Module, x: Features, valid: Valid | None) -> Results:
        graph, state = nnx.split(module)
        y: Results
        y, statistics = pure(graph, state, x, valid)
        if updates_statistics(module):  # in evaluation a loop around this forbids writing
            nnx.update(module, statistics)
        return y

    return applied
