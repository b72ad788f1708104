"""The dilated ResNet backbones: V1 (arXiv 1512.03385), V1c and V1d (He et al., arXiv 1812.01187).

V1c replaces ResNet's 7x7 stem by three 3x3 convolutions; V1d also average-pools in its shortcuts.
With an output stride of 8 or 16, the last stages have dilation instead of strides (arXiv
1606.00915), so their feature maps keep their resolution.
"""

import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.backbone import Backbone, FeatureMaps, Features, Images, Stage
from nonlocal_jax.models.backbones.resnet_keys import BLOCKS_PER_STAGE, torch_keys
from nonlocal_jax.models.layers import ConvNorm, fold_into, freeze, freeze_statistics
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.remat import rematerialized
from nonlocal_jax.models.scanning import scan_blocks
from nonlocal_jax.models.torch_keys import TorchKeys
from nonlocal_jax.models.tracing import traced_once
from nonlocal_jax.ops import layout
from nonlocal_jax.ops import max_pool as pooling
from nonlocal_jax.ops.padding import Valid, at_stride, valid_mask, zero_outside
from nonlocal_jax.ops.residual import add_relu, add_relu_without_gradient

# Output stride -> the stride and the dilation of each stage.
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}

STEM_STRIDE = 4  # with its max-pooling

Halved = Float[Array, "n h_out w_out c"]
Results = Float[Array, "n h_out w_out o"]
ConvNormFactory = Callable[..., ConvNorm]


@dataclass(frozen=True, kw_only=True)
class Options(schema.BackboneOptions):
    """Settings of the backbone."""

    name: str = "resnet"
    variant: Literal["v1", "v1c", "v1d"] = "v1c"
    """v1: the stem is a 7x7 convolution, as in torchvision. v1c: it is three 3x3 convolutions. v1d:
    that, and shortcuts average-pool instead of having strides."""
    style: Literal["pytorch", "caffe"] = "pytorch"
    """Which convolution of a bottleneck has its stride: the 3x3 (pytorch), or the first (caffe)."""
    depth: Literal[18, 34, 50, 101, 152] = 50
    """18 and 34 have basic blocks, the others bottlenecks."""
    output_stride: Literal[8, 16, 32] = 8
    """Image pixels per pixel of the last stage."""
    contract_dilation: bool = True
    """Whether the first block of a dilated stage has half the dilation of the others."""
    stem_channels: Annotated[int, Ge(2)] = 64
    """Width of the stem."""
    base_channels: schema.Count = 64
    """Width of the first stage's 3x3 convolutions; it doubles from stage to stage."""
    frozen_stages: Annotated[int, Ge(-1), Le(4)] = -1
    """-1 trains everything, 0 freezes the stem, k the stem and stages 1 to k."""
    norm_eval: bool = False
    """Whether training keeps the running statistics of batch norms, and normalises with them."""
    scan_blocks: bool = False
    """Whether the equal blocks of a stage are compiled once, as a loop. Runs slower on TPU."""


def build(options: Options, numerics: Numerics) -> "ResNet":
    """The backbone, freshly initialised."""
    return ResNet(options, numerics)


class Shortcut(nnx.Module):
    """The shortcut of a block that changes the shape: 1x1 convolution and norm.

    In V1c the convolution is strided. In V1d, 2x2 windows are averaged first, so every pixel is
    used.
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

    def __call__(self, x: Features, valid_in: Valid | None) -> Results:
        """`valid_in` is the size of each image in the input."""
        if self.average:
            x = average_pool(x, valid_in)
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    def fold_norm(self) -> None:
        """See models/fold.py."""
        if self.norm is not None:
            fold_into(self.conv, self.norm)
            self.norm = None


def _shortcut(
    in_features: int,
    out_features: int,
    *,
    stride: int,
    average: bool,
    conv_norm: ConvNormFactory,
) -> Shortcut | None:
    """The shortcut of a block, or None if the block keeps the shape."""
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
        stride_first: bool,  # its first convolution has the stride anyway
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

    def __call__(self, x: Features, valid: Valid | None = None) -> Results:
        """Returns the block's output; `valid` is the size of each image in the input."""
        valid_out = at_stride(valid, self.stride)
        y = self.conv2(self.conv1(x, valid=valid_out))
        folded = self.conv2.norm is None
        return _add_shortcut(y, x, self.downsample, valid, valid_out, folded)


class Bottleneck(nnx.Module):
    """1x1, 3x3 (dilated), 1x1 convolutions and a shortcut (arXiv 1512.03385).

    The 3x3 convolution is strided; with `stride_first`, as in that paper, the first 1x1 is.
    """

    expansion = 4

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        stride: int,
        dilation: int,
        stride_first: bool,
        average_shortcut: bool,
        conv_norm: ConvNormFactory,
    ):
        out_features = features * self.expansion
        first, second = (stride, 1) if stride_first else (1, stride)
        self.stride, self.first_stride = stride, first
        self.conv1 = conv_norm(in_features, features, 1, stride=first)
        self.conv2 = conv_norm(features, features, 3, stride=second, dilation=dilation)
        self.conv3 = conv_norm(features, out_features, 1, relu=False, zero_scale=True)
        self.downsample = _shortcut(
            in_features,
            out_features,
            stride=stride,
            average=average_shortcut,
            conv_norm=conv_norm,
        )

    def __call__(self, x: Features, valid: Valid | None = None) -> Results:
        """Returns the block's output; `valid` is the size of each image in the input."""
        valid_out = at_stride(valid, self.stride)
        y = self.conv1(x, valid=at_stride(valid, self.first_stride))
        y = self.conv2(y, valid=valid_out)
        folded = self.conv3.norm is None
        return _add_shortcut(self.conv3(y), x, self.downsample, valid, valid_out, folded)


class ResNet(Backbone):
    """A ResNet that returns its four stages by name, "stage1" to "stage4"."""

    def __init__(self, options: Options, numerics: Numerics):
        self.variant = options.variant
        self.remat = numerics.remat
        self.scan_blocks = options.scan_blocks
        conv_norm = partial(ConvNorm, **numerics.of_layers)
        self.stem = _stem(options.variant, options.stem_channels, conv_norm)
        block = Bottleneck if options.depth >= 50 else BasicBlock
        in_features = options.stem_channels
        stages = []
        for index, blocks in enumerate(BLOCKS_PER_STAGE[options.depth]):
            features = options.base_channels * 2**index
            dilation = DILATIONS[options.output_stride][index]
            contracted = options.contract_dilation and dilation > 1
            stage: nnx.List[BasicBlock | Bottleneck] = nnx.List([])
            for i in range(blocks):
                stage.append(
                    block(
                        in_features,
                        features,
                        stride=STRIDES[options.output_stride][index] if i == 0 else 1,
                        dilation=dilation // 2 if contracted and i == 0 else dilation,
                        stride_first=options.style == "caffe",
                        average_shortcut=options.variant == "v1d",
                        conv_norm=conv_norm,
                    )
                )
                in_features = features * block.expansion
            stages.append(stage)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        strides = itertools.accumulate(
            STRIDES[options.output_stride], operator.mul, initial=STEM_STRIDE
        )
        self.sizes = tuple(
            Stage(options.base_channels * 2**i * block.expansion, stride)
            for i, stride in enumerate(list(strides)[1:])
        )
        self._freeze(options.frozen_stages, options.norm_eval)

    @property
    def stages(self) -> Mapping[str, Stage]:
        """See Backbone."""
        return {f"stage{index}": stage for index, stage in enumerate(self.sizes, start=1)}

    @property
    def torch_keys(self) -> TorchKeys:
        """See Backbone."""
        return torch_keys(self.variant)

    def __call__(self, images: Images, valid: Valid | None = None) -> FeatureMaps:
        """See Backbone."""
        x = layout.split(zero_outside(images, valid))
        x = rematerialized(_apply_stem, self.remat)(self.stem, x, valid)
        valid = at_stride(valid, STEM_STRIDE)
        apply_block = traced_once(rematerialized(_apply_block, self.remat))
        outputs = {}
        for name in ("stage1", "stage2", "stage3", "stage4"):
            first, *equal = getattr(self, name)
            x = apply_block(first, x, valid)
            valid = at_stride(valid, first.stride)
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


def _stem(variant: str, channels: int, conv_norm: ConvNormFactory) -> nnx.List[ConvNorm]:
    """The convolutions before the max-pooling, the first with stride 2."""
    if variant == "v1":
        return nnx.List([conv_norm(3, channels, 7, stride=2)])
    half = channels // 2
    first = conv_norm(3, half, 3, stride=2)
    return nnx.List([first, conv_norm(half, half, 3), conv_norm(half, channels, 3)])


def _apply_stem(stem: nnx.List[ConvNorm], x: Images, valid: Valid | None) -> Results:
    """The stem's convolutions and max-pooling; `valid` is the size of each image in the input."""
    valid = at_stride(valid, 2)
    for conv_norm in stem:
        x = conv_norm(x, valid=valid)
    # A pooling window over the border of an image leaves a value in the padding.
    return zero_outside(max_pool(x), at_stride(valid, 2))


def _apply_block(block: BasicBlock | Bottleneck, x: Features, valid: Valid | None) -> Results:
    return block(x, valid)


def max_pool(x: Features) -> Halved:
    """3x3 max-pooling with stride 2; [n, h, w, c] to [n, ceil(h/2), ceil(w/2), c].

    The input follows a ReLU, and its padding is zero. Each window of a valid output holds a pixel
    of the image, whose value is at least zero. So padding never changes a maximum.
    """
    pooled: Halved = pooling.max_pool(x)
    return pooled


def average_pool(x: Features, valid: Valid | None) -> Halved:
    """2x2 average-pooling with stride 2 that counts only pixels inside the image."""
    _, height, width, _ = x.shape
    inside = jnp.ones((1, height, width, 1), bool)
    if valid is not None:
        inside = valid_mask(valid, (height, width))
    sums = _sum_windows(x)
    counts = _sum_windows(inside.astype(x.dtype))
    return sums / jnp.maximum(counts, 1)


def _sum_windows(x: Features) -> Halved:
    zero = np.zeros((), x.dtype)  # a constant: JAX has no gradient of sums that begin otherwise
    padding = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
    sums: Halved = lax.reduce_window(x, zero, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), padding)
    return sums


def _add_shortcut(
    y: Results,
    x: Features,
    shortcut: Shortcut | None,
    valid_in: Valid | None,
    valid_out: Valid | None,
    folded: bool,
) -> Results:
    if shortcut is not None:  # without one, the padding of `x` is zero already
        x = zero_outside(shortcut(x, valid_in), valid_out)
    close = add_relu_without_gradient if folded else add_relu
    return close(zero_outside(y, valid_out), x)
