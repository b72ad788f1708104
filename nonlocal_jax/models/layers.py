"""The layers of all networks: convolution, batch norm, and both together with ReLU.

All of them take `valid`, the size of each image inside a padded batch (see ops/padding.py), and
write zeros outside of it, so the result of an image does not depend on its batch.
"""

import functools
import itertools
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nonlocal_jax.models.remat import keep
from nonlocal_jax.ops.batch_norm import batch_statistics, normalize_batch, normalize_batch_relu
from nonlocal_jax.ops.conv.conv2d import conv2d
from nonlocal_jax.ops.dtypes import float32_or_wider, wide
from nonlocal_jax.ops.padding import Valid, zero_outside

KAIMING_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
KAIMING_FAN_IN = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
NORMAL_001 = nnx.initializers.normal(0.01)
# PyTorch's own, of layers that its networks leave as they are.
UNIFORM_FAN_IN = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class FrozenParam(nnx.Variable[jax.Array]):
    """A parameter that is not trained: no gradient, no weight decay, no optimiser state."""


class Conv(nnx.Module):
    """Square 2D convolution, padded so that only the stride reduces the size."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        kernel_init: nnx.Initializer = KAIMING_FAN_OUT,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros(out_features, param_dtype)) if use_bias else None
        self.stride, self.dilation, self.dtype = stride, dilation, dtype
        self.outputs_first = False

    def put_outputs_first(self) -> None:
        """Holds the kernel as [o, k, k, i], as cuDNN reads it, so that it need not be copied."""
        self.kernel.set_value(jnp.transpose(self.kernel[...], (3, 0, 1, 2)))
        self.outputs_first = True

    def __call__(self, *inputs: Float[Array, "n h w _"]) -> Float[Array, "n h_out w_out o"]:
        """Convolves the concatenated `inputs` in the compute dtype; h_out = ceil(h / stride).

        It is computed as a sum of one convolution for each input, so the inputs are never copied
        into one array.
        """
        kernel = self.kernel[...].astype(self.dtype)
        if self.outputs_first:
            kernel = jnp.transpose(kernel, (1, 2, 3, 0))
        ends = list(itertools.accumulate(x.shape[-1] for x in inputs))
        parts = jnp.split(kernel, ends[:-1], axis=2)
        convolve = partial(
            conv2d, stride=self.stride, dilation=self.dilation, biased=self.bias is not None
        )
        results = [convolve(x.astype(self.dtype), k) for x, k in zip(inputs, parts, strict=True)]
        y = keep(functools.reduce(jnp.add, results))
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class Factor(nnx.Module):
    """A learned number that multiplies an array. It is 0 at first, which silences a new branch."""

    def __init__(self, *, param_dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.zeros((), param_dtype))

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The product, in the dtype of `x`."""
        return x * self.scale[...].astype(x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, with float32 statistics.

    Under jit the batch axis is the global one, so statistics are synchronised over devices without
    an axis name. As in PyTorch, eps is 1e-5, the momentum of the running statistics is 0.1, and the
    running variance is the unbiased one. With `frozen`, training uses the running statistics, too.

    Two attributes are switched from outside, by `model.set_attributes`. With `group`, each part of
    so many examples of a batch has its own statistics; the running ones take their mean. With
    `records_batches`, a call puts mean and biased variance of its batch in place of the running
    ones (see training/precise_norm.py).
    """

    epsilon = 1e-5
    momentum = 0.9
    group = 0
    records_batches = False

    def __init__(
        self,
        features: int,
        *,
        zero_scale: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.full(features, 0.0 if zero_scale else 1.0, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.dtype = dtype
        self.frozen = False
        self.use_running_average = False

    @property
    def updates_statistics(self) -> bool:
        """Whether a call uses the statistics of the batch and updates the running ones."""
        return not (self.use_running_average or self.frozen)

    def __call__(
        self, x: Float[Array, "*batch c"], *, relu: bool = False
    ) -> Float[Array, "*batch c"]:
        """Returns the normalised array in the compute dtype; updates the statistics in training.

        With `relu`, a ReLU follows.
        """
        scale, bias = float32_or_wider(self.scale[...]), float32_or_wider(self.bias[...])
        if not self.updates_statistics:
            scale = scale * lax.rsqrt(self.var[...] + self.epsilon)
            y = (float32_or_wider(x) - self.mean[...]) * scale + bias
        else:
            if self.group and x.shape[0] > self.group:
                return self._by_groups(x, scale, bias, relu=relu)
            mean, var = self._statistics(lax.stop_gradient(x))
            self._update(mean, var, count=x.size // x.shape[-1])
            arguments = x, mean, lax.rsqrt(var + self.epsilon), scale, bias
            if relu:
                return normalize_batch_relu(*arguments, self.dtype)
            y = normalize_batch(*arguments)
        y = y.astype(self.dtype)
        return nnx.relu(y) if relu else y

    def _by_groups(
        self,
        x: Float[Array, "n *space c"],
        scale: Float[Array, "c"],
        bias: Float[Array, "c"],
        *,
        relu: bool,
    ) -> Float[Array, "n *space c"]:
        """The result in training with statistics of their own for each `group` examples."""
        parts = x.reshape(-1, self.group, *x.shape[1:])

        def normalise(part: Float[Array, "group *space c"]) -> tuple[jax.Array, ...]:
            mean, var = self._statistics(lax.stop_gradient(part))
            arguments = part, mean, lax.rsqrt(var + self.epsilon), scale, bias
            if relu:
                return normalize_batch_relu(*arguments, self.dtype), mean, var
            return normalize_batch(*arguments).astype(self.dtype), mean, var

        y, means, variances = jax.vmap(normalise)(parts)
        mean, var = jnp.mean(means, 0), jnp.mean(variances, 0)
        if self.records_batches:
            var = var + jnp.mean(jnp.square(means - mean), 0)
        self._update(mean, var, count=x.size // x.shape[-1] // len(parts))
        return y.reshape(x.shape)

    def _statistics(self, x: Float[Array, "*batch c"]) -> tuple[Float[Array, "c"], ...]:
        """Mean and variance of the batch."""
        shift = lax.stop_gradient(self.mean[...]).astype(wide(x.dtype))
        mean, var = batch_statistics(x, shift)
        return keep(mean), keep(var)

    def _update(self, mean: Float[Array, "c"], var: Float[Array, "c"], count: int) -> None:
        if self.records_batches:
            self.mean.set_value(mean)
            self.var.set_value(var)
            return
        unbiased = var * (count / max(count - 1, 1))
        self.mean.set_value(self.momentum * self.mean[...] + (1 - self.momentum) * mean)
        self.var.set_value(self.momentum * self.var[...] + (1 - self.momentum) * unbiased)


class LayerNorm(nnx.Module):
    """Normalisation over the channels of each position (Ba et al., arXiv 1607.06450).

    As in PyTorch, eps is 1e-5. Mean and variance are computed one after the other, which loses less
    than the mean of squares does.
    """

    epsilon = 1e-5

    def __init__(self, features: int, *, param_dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.ones(features, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """The result, in float32 or wider."""
        x = float32_or_wider(x)
        x -= jnp.mean(x, axis=-1, keepdims=True)
        x *= lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return x * self.scale[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class ConvNorm(nnx.Module):
    """Bias-free convolution, batch norm, and ReLU unless `relu=False`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        zero_scale: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_features,
            out_features,
            kernel_size,
            stride=stride,
            dilation=dilation,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.norm: BatchNorm | None = BatchNorm(  # None once it is folded, see models/fold.py
            out_features, zero_scale=zero_scale, dtype=dtype, param_dtype=param_dtype
        )
        self.relu = relu

    def __call__(
        self, *inputs: Float[Array, "n h w _"], valid: Valid | None = None
    ) -> Float[Array, "n h_out w_out o"]:
        """The result of the concatenated `inputs`; `valid` is each image's size in the *output*."""
        x = self.conv(*inputs)
        if self.norm is not None:
            x = self.norm(x, relu=self.relu)
        elif self.relu:
            x = nnx.relu(x)
        return zero_outside(x, valid)

    def fold_norm(self) -> None:
        """See models/fold.py."""
        if self.norm is not None:
            fold_into(self.conv, self.norm)
            self.norm = None


def fold_into(layer: Conv | nnx.Linear, norm: BatchNorm) -> None:
    """Makes a layer compute what `norm`, by its running statistics, makes of its result."""
    scale = float32_or_wider(norm.scale[...]) * lax.rsqrt(norm.var[...] + norm.epsilon)
    kernel = layer.kernel[...]
    layer.kernel.set_value((kernel * scale).astype(kernel.dtype))
    shift = float32_or_wider(norm.bias[...]) - norm.mean[...] * scale
    if layer.bias is not None:
        shift += float32_or_wider(layer.bias[...]) * scale
    if isinstance(layer, nnx.Linear):
        layer.use_bias = True
    layer.bias = nnx.data(nnx.Param(shift.astype(kernel.dtype)))


def freeze(module: nnx.Module) -> None:
    """Excludes a module from training: its parameters, and the statistics of its norms."""
    for _, node in list(nnx.iter_modules(module)):
        for name, value in list(vars(node).items()):
            if isinstance(value, nnx.Param):
                setattr(node, name, FrozenParam(value[...]))
        if isinstance(node, BatchNorm):
            node.frozen = True


def freeze_statistics(module: nnx.Module) -> None:
    """Lets the batch norms of `module` use their running statistics in training (`norm_eval`)."""
    for _, node in nnx.iter_modules(module):
        if isinstance(node, BatchNorm):
            node.frozen = True


def updates_statistics(module: nnx.Module) -> bool:
    """Whether a call of `module` updates the running statistics of any batch norm in it."""
    modules = (node for _, node in nnx.iter_modules(module))
    return any(isinstance(node, BatchNorm) and node.updates_statistics for node in modules)
