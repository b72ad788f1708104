"""Equal modules are traced once: the 33 blocks of R-101 are 8 traced programs.

XLA inlines the calls first, so it compiles the same program as without this.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.models.layers import updates_statistics
from nonlocal_jax.ops.padding import Valid

Features = Float[Array, "n *space c"]
Results = Float[Array, "n *space_out o"]
Graph = nnx.GraphDef[nnx.Module]
State = nnx.State[Any, Any]
Apply = Callable[[nnx.Module, Features, Valid | None], Results]


def functional(
    apply: Apply,
) -> Callable[[Graph, State, Features, Valid | None], tuple[Results, State]]:
    """`apply` for a module split by `nnx.split`; it also returns the statistics."""

    def pure(graph: Graph, state: State, x: Features, valid: Valid | None) -> tuple[Results, State]:
        module = nnx.merge(graph, state)
        y = apply(module, x, valid)
        return y, nnx.state(module, nnx.BatchStat)

    return pure


def traced_once(apply: Apply) -> Apply:
    """`apply`, traced once for all modules that differ in their arrays only.

    In training, the statistics of batch norms are updated as usual.
    """
    pure = jax.jit(functional(apply), static_argnums=0)

    def applied(module: nnx.Module, x: Features, valid: Valid | None) -> Results:
        graph, state = nnx.split(module)
        y: Results
        y, statistics = pure(graph, state, x, valid)
        if updates_statistics(module):  # in evaluation, a surrounding loop forbids writing
            nnx.update(module, statistics)
        return y

    return applied
