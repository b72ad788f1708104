"""Batch norms folded into the linear layers before them, for inference.

With running statistics, a norm is a scale and a shift of each channel. The scale is multiplied into
the kernel of the layer, and the shift becomes its bias. That saves a pass over each feature map.
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
    """A module with a norm after a linear layer. Other norms are not folded."""

    def fold_norm(self) -> None:
        """Folds the norm into the layer before it; see `layers.fold_into`."""


def fold(
    network: Network, variables: Mapping[str, jax.Array | np.ndarray]
) -> tuple[Network, dict[str, np.ndarray]]:
    """A network for inference without norms, and its variables.

    Args:
      network: the network to fold.
      variables: its variables; they are not changed.
    """
    model = network.bind_for_inference({k: jnp.asarray(v) for k, v in variables.items()})
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, Foldable):
            module.fold_norm()
    folded = {name: np.asarray(value) for name, value in flat_variables(model).items()}
    graph, state = nnx.split(model)
    return Network(graph, jax.eval_shape(lambda: state)), folded
