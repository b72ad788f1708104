"""Batch norms folded into the linear layers before them, for inference.

With running statistics, a norm is a scale and a shift of each channel. The scale is multiplied into
the kernel of the layer, and the shift becomes its bias. That saves a pass over each feature map.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nonlocal_jax.models.functional import Functional, flat_variables
from nonlocal_jax.models.layers import Conv
from nonlocal_jax.models.video_layers import Conv3d

Network = TypeVar("Network", bound=Functional[Any])


@runtime_checkable
class Foldable(Protocol):
    """A module with a norm after a linear layer. Other norms are not folded."""

    def fold_norm(self) -> None:
        """Folds the norm into the layer before it; see `layers.fold_into`."""


def fold(
    network: Network,
    variables: Mapping[str, jax.Array | np.ndarray],
    *,
    platform: str | None = None,
) -> tuple[Network, dict[str, np.ndarray]]:
    """A network for inference without norms, and its variables.

    Convolutions and linear layers hold what they compute with: kernels and biases in the compute
    dtype and, on a GPU, in cuDNN's order of axes.

    Args:
      network: the network to fold.
      variables: its variables; they are not changed.
      platform: of the devices that it will run on, by default those of this process.
    """
    on_gpu = (platform or jax.default_backend()) in ("gpu", "cuda")
    model = network.bind_for_inference({k: jnp.asarray(v) for k, v in variables.items()})
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, Foldable):
            module.fold_norm()
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, Conv | Conv3d | nnx.Linear):
            _in_compute_dtype(module)
        if isinstance(module, Conv) and on_gpu:
            module.put_outputs_first()
    folded = {name: np.asarray(value) for name, value in flat_variables(model).items()}
    graph, state = nnx.split(model)
    return type(network)(graph, jax.eval_shape(lambda: state)), folded


def _in_compute_dtype(layer: Conv | Conv3d | nnx.Linear) -> None:
    for variable in (layer.kernel, layer.bias):
        if variable is not None and layer.dtype is not None:
            variable.set_value(variable[...].astype(layer.dtype))
