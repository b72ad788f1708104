"""Batch norms that no longer learn, folded into the linear layers before them.

With running statistics a norm is a scale and a shift of every channel. The scale joins the layer's
kernel, the shift becomes its bias: the same function, without a pass over every feature map.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nonlocal_jax.models.build import Network, flat_variables
from nonlocal_jax.models.layers import BatchNorm, Conv, ConvNorm
from nonlocal_jax.models.non_local import NonLocal
from nonlocal_jax.models.resnet import Shortcut
from nonlocal_jax.ops.dtypes import float32_or_wider


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
      network: whose norms follow convolutions and linear layers, as all here do.
      variables: its own; they stay as they are.
      platform: that the folded network is for; by default this process's.
    """
    on_gpu = (platform or jax.default_backend()) in ("gpu", "cuda")
    model = network.bind_for_inference({k: jnp.asarray(v) for k, v in variables.items()})
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, ConvNorm | Shortcut):
            _fold(module.conv, module.norm)
            module.norm = None
        elif isinstance(module, NonLocal) and module.norm is not None:
            _fold(module.out, module.norm)
            module.norm = None
    for _, module in list(nnx.iter_modules(model)):
        if isinstance(module, Conv | nnx.Linear):
            _in_compute_dtype(module)
        if isinstance(module, Conv) and on_gpu:
            module.put_outputs_first()
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


def _in_compute_dtype(layer: Conv | nnx.Linear) -> None:
    for variable in (layer.kernel, layer.bias):
        if variable is not None and layer.dtype is not None:
            variable.set_value(variable[...].astype(layer.dtype))
