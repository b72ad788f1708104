"""Batch norms that no longer learn, folded into the linear layers before them.

With running statistics a norm is a scale and a shift of every channel. The scale joins the layer's
kernel, the shift becomes its bias: the same function, without a pass over every feature map.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nonlocal_jax.models.network import Network, flat_variables


@runtime_checkable
class Foldable(Protocol):
    """A module with a norm that follows a layer. Other norms stay as they are."""

    def fold_norm(self) -> None:
        """Takes the module's norm into the layer before it; see `layers.fold_into`."""


def fold(
    network: Network, variables: Mapping[str, jax.Array | np.ndarray]
) -> tuple[Network, dict[str, np.ndarray]]:
    """A network for inference without norms, and its variables.

    Args:
      network: what to fold.
      variables: its own; they stay as they are.
    """
    model = network.bind_for_inference({k: jnp.asarray(v) for k, v in variables.items()})
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, Foldable):
            module.fold_norm()
    folded = {name: np.asarray(value) for name, value in flat_variables(model).items()}
    graph, state = nnx.split(model)
    return Network(graph, jax.eval_shape(lambda: state)), folded
