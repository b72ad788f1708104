"""The dilated ResNet backbones: ResNetV1c and V1d (He et al. 2018, arXiv 1812.01187).

V1c replaces ResNet's 7x7 stem by three 3x3 convolutions; V1d also average-pools in its shortcuts.
An output stride of 8 or 16 trades the last stages' strides for dilation (arXiv 1606.00915), so
that their feature maps keep their resolution.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nonlocal_jax.models.layers import ConvNorm, freeze, freeze_statistics
from nonlocal_jax.models.remat import rematerialized
from nonlocal_jax.models.scanning import scan_blocks
from nonlocal_jax.models.tracing import traced_once
from nonlocal_jax.ops import layout
from nonlocal_jax.ops import max_pool as pooling
from nonlocal_jax.ops.padding import Valid, halve, valid_mask, zero_outside
from nonlocal_jax.ops.residual import add_relu, add_relu_without_gradient

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Output stride -> the stride and the dilation of each stage.
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}

Features = Float[Array, "n h w c"]
ConvNormFactory = Callable[..., ConvNorm]


class Shortcut(nnx.Module):
    """What a block adds its result to where it changes the shape: 1x1 convolution and norm.

    V1c strides in the convolution; V1d averages 2x2 windows first, which loses no pixels.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stride: int,
        average: bool,
        conv_norm: ConvNormFactory,
    ):
        self.average = average and stride > 1
        conv_stride = 1 if self.average else stride
        block = conv_norm(in_features, out_features, 1, stride=conv_stride, relu=False)
        self.conv, self.norm = block.conv, block.norm

    def __call__(self, x: Features, valid_in: Valid | None) -> Features:
        """`valid_in` is the size of each image in the input."""
        if self.average:
            x = average_pool(x, valid_in)
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


def _shortcut(
    in_features: int,
    out_features: int,
    *,
    stride: int,
    average: bool,
    conv_norm: ConvNormFactory,
) -> Shortcut | None:
    """None where a block can add its input as it is."""
    if stride == 1 and in_features == out_features:
        return None
    return Shortcut(in_features, out_features, stride=stride, average=average, conv_norm=conv_norm)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut; only the first is strided and dilated."""

    expansion = 1

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        dilation: int,
        average_shortcut: bool,
        conv_norm: ConvNormFactory,
    ):
        self.stride = stride
        self.conv1 = conv_norm(in_features, features, 3, stride=stride, dilation=dilation)
        self.conv2 = conv_norm(features, features, 3, relu=False, zero_scale=True)
        self.downsample = _shortcut(
            in_features,
            features,
            stride=stride,
            average=average_shortcut,
            conv_norm=conv_norm,
        )

    def __call__(self, x: Features, valid: Valid | None = None) -> Features:
        """Returns the block's output; `valid` is the size of each image in the input."""
        valid_out = valid if self.stride == 1 else halve(valid)
        y = self.conv2(self.conv1(x, valid=valid_out))
        folded = self.conv2.norm is None
        return _add_shortcut(y, x, self.downsample, valid, valid_out, folded)


class Bottleneck(nnx.Module):
    """1x1, 3x3 (strided and dilated), 1x1 convolutions and a shortcut (arXiv 1512.03385)."""

    expansion = 4

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        dilation: int,
        average_shortcut: bool,
        conv_norm: ConvNormFactory,
    ):
        out_features = features * self.expansion
        self.stride = stride
        self.conv1 = conv_norm(in_features, features, 1)
        self.conv2 = conv_norm(features, features, 3, stride=stride, dilation=dilation)
        self.conv3 = conv_norm(features, out_features, 1, relu=False, zero_scale=True)
        self.downsample = _shortcut(
            in_features,
            out_features,
            stride=stride,
            average=average_shortcut,
            conv_norm=conv_norm,
        )

    def __call__(self, x: Features, valid: Valid | None = None) -> Features:
        """Returns the block's output; `valid` is the size of each image in the input."""
        valid_out = valid if self.stride == 1 else halve(valid)
        y = self.conv2(self.conv1(x, valid=valid), valid=valid_out)
        folded = self.conv3.norm is None
        return _add_shortcut(self.conv3(y), x, self.downsample, valid, valid_out, folded)


class ResNet(nnx.Module):
    """Deep-stem ResNet that returns its four stages by name.

    Args:
      variant: "v1c" or "v1d".
      depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
      output_stride: 8, 16 or 32: input pixels per pixel of the last stage.
      contract_dilation: the first block of a dilated stage uses half its dilation.
      stem_channels, base_channels: width of the stem and of the first stage's 3x3 convolutions.
      frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and stages 1 to k.
      norm_eval: batch norms keep their running statistics in training.
      remat: what training computes twice to save memory, see models/remat.py.
      scan_blocks: the equal blocks of a stage, all but its first, are compiled once, as a loop.
      dtype, param_dtype: of the computation and of the parameters.
    """

    def __init__(
        self,
        *,
        variant: str = "v1c",
        depth: int = 50,
        output_stride: int = 8,
        contract_dilation: bool = True,
        stem_channels: int = 64,
        base_channels: int = 64,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        remat: str = "none",
        scan_blocks: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        conv_norm = partial(ConvNorm, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.stem = nnx.List(
            [
                conv_norm(3, stem_channels // 2, 3, stride=2),
                conv_norm(stem_channels // 2, stem_channels // 2, 3),
                conv_norm(stem_channels // 2, stem_channels, 3),
            ]
        )
        block = Bottleneck if depth >= 50 else BasicBlock
        in_features = stem_channels
        stages = []
        for index, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
            features = base_channels * 2**index
            dilation = DILATIONS[output_stride][index]
            first_dilation = dilation // 2 if contract_dilation and dilation > 1 else dilation
            stage: nnx.List = nnx.List([])
            for i in range(blocks):
                stage.append(
                    block(
                        in_features,
                        features,
                        stride=STRIDES[output_stride][index] if i == 0 else 1,
                        dilation=first_dilation if i == 0 else dilation,
                        average_shortcut=variant == "v1d",
                        conv_norm=conv_norm,
                    )
                )
                in_features = features * block.expansion
            stages.append(stage)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.remat = remat
        self.scan_blocks = scan_blocks
        self.features = tuple(base_channels * 2**i * block.expansion for i in range(4))
        self._freeze(frozen_stages, norm_eval)

    def __call__(
        self, x: Float[Array, "n h w 3"], valid: Valid | None = None
    ) -> dict[str, Features]:
        """Returns {"stage1": [n, h/4, w/4, c], ..., "stage4": [n, h/stride, w/stride, c]}.

        Sizes round up. `valid` is the size of each image in `x`; see ops/padding.py. What lies
        beyond it does not matter.
        """
        x = layout.split(zero_outside(x, valid))
        x = rematerialized(_apply_stem, self.remat)(self.stem, x, valid)
        valid = halve(halve(valid))
        apply_block = traced_once(rematerialized(_apply_block, self.remat))
        outputs = {}
        for name in ("stage1", "stage2", "stage3", "stage4"):
            first, *equal = getattr(self, name)
            x = apply_block(first, x, valid)
            valid = valid if first.stride == 1 else halve(valid)
            if self.scan_blocks and len(equal) > 1:
                x = scan_blocks(apply_block, equal, x, valid)
            else:
                for block in equal:
                    x = apply_block(block, x, valid)
            outputs[name] = x
        return outputs

    def _freeze(self, frozen_stages: int, norm_eval: bool) -> None:
        if norm_eval:
            freeze_statistics(self)
        if frozen_stages >= 0:
            freeze(self.stem)
        for index in range(1, frozen_stages + 1):
            freeze(getattr(self, f"stage{index}"))


def _apply_stem(stem: nnx.List, x: Float[Array, "n h w 3"], valid: Valid | None) -> Features:
    """The stem's convolutions and max-pooling; `valid` is the size of each image in the input."""
    valid = halve(valid)
    for conv_norm in stem:
        x = conv_norm(x, valid=valid)
    # A window that begins in the image and ends in the padding leaves a value beyond `valid`.
    return zero_outside(max_pool(x), halve(valid))


def _apply_block(block: BasicBlock | Bottleneck, x: Features, valid: Valid | None) -> Features:
    return block(x, valid)


def max_pool(x: Features) -> Features:
    """3x3 max-pooling with stride 2; [n, h, w, c] to [n, ceil(h/2), ceil(w/2), c].

    It follows a ReLU that left zeros in the padding, and no window of a valid output lies wholly
    there: the zeros never win against an image's own values.
    """
    return pooling.max_pool(x)


def average_pool(x: Features, valid: Valid | None) -> Features:
    """2x2 average-pooling with stride 2 that counts only pixels inside the image."""
    _, height, width, _ = x.shape
    inside = jnp.ones((1, height, width, 1), bool)
    if valid is not None:
        inside = valid_mask(valid, (height, width))
    sums = _sum_windows(x)
    counts = _sum_windows(inside.astype(x.dtype))
    return sums / jnp.maximum(counts, 1)


def _sum_windows(x: Features) -> Features:
    zero = jnp.zeros((), x.dtype)
    padding = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    return lax.reduce_window(x, zero, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), padding)


def _add_shortcut(
    y: Features,
    x: Features,
    shortcut: Shortcut | None,
    valid_in: Valid | None,
    valid_out: Valid | None,
    folded: bool,
) -> Features:
    if shortcut is not None:  # elsewhere the padding of `x` is zero already
        x = zero_outside(shortcut(x, valid_in), valid_out)
    close = add_relu_without_gradient if folded else add_relu
    return close(zero_outside(y, valid_out), x)
