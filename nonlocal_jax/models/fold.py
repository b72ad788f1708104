"""Batch norms that no longer learn, folded into the linear layers before them.

With running statistics a norm is a scale and a shift of every channel. The scale joins the layer's
kernel, the shift becomes its bias: the same function, without a pass over every feature map.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nonlocal_jax.models.backbones.resnet import Shortcut
from nonlocal_jax.models.layers import BatchNorm, Conv, ConvNorm
from nonlocal_jax.models.network import Network, flat_variables
from nonlocal_jax.models.non_local import NonLocal
from nonlocal_jax.ops.dtypes import float32_or_wider


def fold(
    network: Network, variables: Mapping[str, jax.Array | np.ndarray]
) -> tuple[Network, dict[str, np.ndarray]]:
    """A network for inference without norms, and its variables.

    Args:
      network: whose norms follow convolutions and linear layers, as all here do.
      variables: its own; they stay as they are.
    """
    model = network.bind_for_inference({k: jnp.asarray(v) for k, v in variables.items()})
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, ConvNorm | Shortcut):
            _fold(module.conv, module.norm)
            module.norm = None
        elif isinstance(module, NonLocal) and module.norm is not None:
            _fold(module.out, module.norm)
            module.norm = None
    folded = {name: np.asarray(value) for name, value in flat_variables(model).items()}
    graph, state = nnx.split(model)
    return Network(graph, jax.eval_shape(lambda: state)), folded


def _fold(layer: Conv | nnx.Linear, norm: BatchNorm | None) -> None:
    assert norm is not None
    scale = float32_or_wider(norm.scale[...]) * jax.lax.rsqrt(norm.var[...] + norm.epsilon)
    kernel = layer.kernel[...]
    layer.kernel.set_value((kernel * scale).astype(kernel.dtype))
    shift = float32_or_wider(norm.bias[...]) - norm.mean[...] * scale
    if isinstance(layer, nnx.Linear):
        layer.use_bias = True
    layer.bias = nnx.data(nnx.Param(shift.astype(kernel.dtype)))
