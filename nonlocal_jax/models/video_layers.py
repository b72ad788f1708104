"""The layers of video networks: 3D convolution, the affine layer, and both together with ReLU."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nonlocal_jax.models.layers import KAIMING_FAN_OUT, BatchNorm, FrozenParam
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.remat import keep
from nonlocal_jax.ops.conv.conv3d import conv3d
from nonlocal_jax.ops.dtypes import float32_or_wider

Clips = Float[Array, "n t h w i"]
Results = Float[Array, "n t_out h_out w_out o"]
NormName = Literal["batch", "affine"]


class Conv3d(nnx.Module):
    """3D convolution, padded so that only strides reduce sizes.

    Args:
      in_features, out_features: channels.
      kernel_size: frames, and pixels of height and width; odd numbers.
      stride: of frames, and of height and width.
      numerics: dtypes and random numbers.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        numerics: Numerics,
    ):
        frames, pixels = kernel_size
        shape = (frames, pixels, pixels, in_features, out_features)
        kernel = KAIMING_FAN_OUT(numerics.rngs.params(), shape, numerics.param_dtype)
        self.kernel = nnx.Param(kernel)
        self.bias: nnx.Param[Array] | None = nnx.data(None)  # that of a folded norm
        self.time_stride, self.stride = stride
        self.dtype = numerics.dtype

    def __call__(self, x: Clips) -> Results:
        """Convolves `x` in the compute dtype."""
        kernel = self.kernel[...].astype(self.dtype)
        biased = self.bias is not None
        y: Results = keep(
            conv3d(
                x.astype(self.dtype),
                kernel,
                stride=self.stride,
                time_stride=self.time_stride,
                biased=biased,
            )
        )
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class Affine(nnx.Module):
    """A frozen scale and bias for each channel, in place of a batch norm."""

    def __init__(self, features: int, *, dtype: DTypeLike, param_dtype: DTypeLike):
        self.scale = FrozenParam(jnp.ones(features, param_dtype))
        self.bias = FrozenParam(jnp.zeros(features, param_dtype))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "*batch c"], *, relu: bool = False
    ) -> Float[Array, "*batch c"]:
        """scale x + bias in the compute dtype; with `relu`, a ReLU follows."""
        scale, bias = float32_or_wider(self.scale[...]), float32_or_wider(self.bias[...])
        y = (float32_or_wider(x) * scale + bias).astype(self.dtype)
        return nnx.relu(y) if relu else y


class ConvNorm3d(nnx.Module):
    """Bias-free convolution, batch norm or affine layer, and ReLU unless `relu=False`.

    Args:
      in_features, out_features, kernel_size, stride, numerics: see Conv3d.
      norm: the layer behind the convolution.
      relu: whether a ReLU ends it.
      zero_scale: whether the scale of a batch norm starts at zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        norm: NormName,
        relu: bool = True,
        zero_scale: bool = False,
        numerics: Numerics,
    ):
        dtypes = {"dtype": numerics.dtype, "param_dtype": numerics.param_dtype}
        self.conv = Conv3d(in_features, out_features, kernel_size, stride=stride, numerics=numerics)
        self.norm: BatchNorm | Affine | None = (
            Affine(out_features, **dtypes)
            if norm == "affine"
            else BatchNorm(out_features, zero_scale=zero_scale, **dtypes)
        )
        self.relu = relu

    def __call__(self, x: Clips) -> Results:
        """The result in the compute dtype."""
        y = self.conv(x)
        if self.norm is not None:
            return self.norm(y, relu=self.relu)
        return nnx.relu(y) if self.relu else y

    def fold_norm(self) -> None:
        """See models/fold.py."""
        if self.norm is None:
            return
        scale, shift = float32_or_wider(self.norm.scale[...]), float32_or_wider(self.norm.bias[...])
        if isinstance(self.norm, BatchNorm):
            scale = scale * lax.rsqrt(self.norm.var[...] + self.norm.epsilon)
            shift = shift - self.norm.mean[...] * scale
        kernel = self.conv.kernel[...]
        self.conv.kernel.set_value((kernel * scale).astype(kernel.dtype))
        self.conv.bias = nnx.data(nnx.Param(shift.astype(kernel.dtype)))
        self.norm = None
