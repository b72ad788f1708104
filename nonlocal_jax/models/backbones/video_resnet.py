"""The video ResNets of the non-local paper (arXiv 1711.07971, section 4): C2D and I3D.

C2D convolves each frame by itself, and combines frames in max-pooling only. I3D's kernels are
"inflated" over time: 5x7x7 in the stem, and 3x1x1 at the start of some residual blocks. Non-local
blocks follow some blocks of res3 and res4.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.video_backbone import Clips, FeatureMap, Layer, VideoBackbone
from nonlocal_jax.models.caffe2_keys import Row, under
from nonlocal_jax.models.non_local import Mode, NonLocal
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.remat import rematerialized
from nonlocal_jax.models.tracing import traced_once
from nonlocal_jax.models.video_layers import ConvNorm3d, NormName
from nonlocal_jax.models.video_non_local import CAFFE2_KEYS as NON_LOCAL_KEYS
from nonlocal_jax.models.video_non_local import VideoNonLocal
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.attention.softmax import Implementation
from nonlocal_jax.ops.max_pool import max_pool, pool_pairs
from nonlocal_jax.ops.residual import add_relu, add_relu_without_gradient

TASK = "video"
STAGES = ("res2", "res3", "res4", "res5")
BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Depth -> stage -> the residual blocks that a non-local block follows.
NON_LOCAL_AFTER = {
    50: {"res3": (1, 3), "res4": (1, 3, 5)},
    101: {"res3": (1, 3), "res4": (6, 13, 20)},
}
EXPANSION = 4

CAFFE2_KEYS = (
    Row("stem/conv", "conv1", "conv"),
    Row("stem/norm", "res_conv1_bn", "norm"),
    Row("res{s}/{b}/conv1/conv", "res{s}_{b}_branch2a", "conv"),
    Row("res{s}/{b}/conv1/norm", "res{s}_{b}_branch2a_bn", "norm"),
    Row("res{s}/{b}/conv2/conv", "res{s}_{b}_branch2b", "conv"),
    Row("res{s}/{b}/conv2/norm", "res{s}_{b}_branch2b_bn", "norm"),
    Row("res{s}/{b}/conv3/conv", "res{s}_{b}_branch2c", "conv"),
    Row("res{s}/{b}/conv3/norm", "res{s}_{b}_branch2c_bn", "norm"),
    Row("res{s}/{b}/downsample/conv", "res{s}_{b}_branch1", "conv"),
    Row("res{s}/{b}/downsample/norm", "res{s}_{b}_branch1_bn", "norm"),
    *under("non_local/res{s}/{b}", "nonlocal_conv{s}_{b}", NON_LOCAL_KEYS),
)

Features = Float[Array, "n t h w c"]


@dataclass(frozen=True, kw_only=True)
class Options(schema.BackboneOptions):
    """Settings of the backbone."""

    name: str = "video_resnet"
    kind: Literal["c2d", "i3d"] = "i3d"
    """c2d: no convolution combines frames. i3d: inflated kernels."""
    depth: Literal[50, 101] = 50
    """Number of layers."""
    time_stride: Literal[1, 2] = 1
    """Stride over frames of the stem's convolution and of its pooling: 2 for clips of 32x2 and
    128x1, 1 for those of 8x8 and 32x4."""
    norm: NormName = "batch"
    """batch: batch norm. affine: a frozen scale and bias for each channel, and no norms in
    non-local blocks."""
    non_local: bool = True
    """Whether there are non-local blocks: five of them."""
    mode: Mode = "embedded_gaussian"
    """Their pairwise function f."""
    use_scale: bool = True
    """Whether embedded_gaussian divides its logits by the square root of the width."""
    sub_sample: bool = True
    """Whether keys and values are max-pooled 1x2x2."""
    group_frames: schema.CountOrNone = 0
    """Attention in res3 stays inside groups of so many frames; 0: it is over the whole clip. The
    published affine models have 4."""
    base_channels: schema.Count = 64
    """Width of the stem, and of the 3x3 convolutions of res2; it doubles from stage to stage."""
    implementation: Implementation = "auto"
    """Kernel of the Gaussian modes. auto: the fastest that the platform has, see
    ops/attention/softmax.py."""

    def for_platform(self, platform: str, dtype: str) -> "Options":
        """A TPU's kernel must be named where the program is compiled on another machine."""
        if self.implementation != "auto" or platform != "tpu":
            return self
        return replace(self, implementation="pallas" if dtype == "bfloat16" else "chunked")


def build(options: Options, numerics: Numerics) -> "VideoResNet":
    """The backbone, freshly initialised."""
    return VideoResNet(options, numerics)


class Stem(ConvNorm3d):
    """A 7x7 convolution with stride 2, over five frames in I3D, and 3x3 max-pooling."""

    def __init__(self, options: Options, numerics: Numerics):
        super().__init__(
            3,
            options.base_channels,
            (5 if options.kind == "i3d" else 1, 7),
            stride=(options.time_stride, 2),
            norm=options.norm,
            numerics=numerics,
        )

    def __call__(self, x: Clips) -> FeatureMap:
        """The pooled convolution. Windows are not padded: 224 pixels become 112, then 55."""
        x = super().__call__(x)
        if self.conv.time_stride == 2:
            x = pool_pairs(x, 1)
        pooled = max_pool(x.reshape(-1, *x.shape[2:]), 0)
        return pooled.reshape(*x.shape[:2], *pooled.shape[1:])


class Bottleneck3d(nnx.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions of frames, and a shortcut (arXiv 1512.03385).

    Args:
      in_features: channels of the input.
      features: width of the first two convolutions; the result is four times as wide.
      frames: of the first convolution's kernel, 1 or 3.
      stride: of height and width.
      norm: see ConvNorm3d.
      numerics: dtypes and random numbers.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        frames: int,
        stride: int,
        norm: NormName,
        numerics: Numerics,
    ):
        conv_norm = partial(ConvNorm3d, norm=norm, numerics=numerics)
        out_features = features * EXPANSION
        self.conv1 = conv_norm(in_features, features, (frames, 1))
        self.conv2 = conv_norm(features, features, (1, 3), stride=(1, stride))
        self.conv3 = conv_norm(features, out_features, (1, 1), relu=False, zero_scale=True)
        self.downsample = (
            None
            if in_features == out_features
            else conv_norm(in_features, out_features, (1, 1), stride=(1, stride), relu=False)
        )

    def __call__(self, x: Features) -> FeatureMap:
        """Returns the block's output."""
        y = self.conv3(self.conv2(self.conv1(x)))
        shortcut = x if self.downsample is None else self.downsample(x)
        close = add_relu_without_gradient if self.conv3.norm is None else add_relu
        return close(y, shortcut)


class VideoResNet(VideoBackbone):
    """C2D or I3D, from clips to the feature map of res5, whose stride is 32 pixels."""

    def __init__(self, options: Options, numerics: Numerics):
        self.remat = numerics.remat
        self.stem = Stem(options, numerics)
        in_features = options.base_channels
        non_local: dict[str, nnx.Dict[VideoNonLocal]] = {}
        for index, (stage, count) in enumerate(
            zip(STAGES, BLOCKS_PER_STAGE[options.depth], strict=True)
        ):
            features = options.base_channels * 2**index
            blocks: nnx.List[Bottleneck3d] = nnx.List([])
            for i in range(count):
                blocks.append(
                    Bottleneck3d(
                        in_features,
                        features,
                        frames=3 if options.kind == "i3d" and _is_inflated(stage, i) else 1,
                        stride=2 if i == 0 and stage != "res2" else 1,
                        norm=options.norm,
                        numerics=numerics,
                    )
                )
                in_features = features * EXPANSION
            setattr(self, stage, blocks)
            places = NON_LOCAL_AFTER[options.depth].get(stage, ()) if options.non_local else ()
            if places:
                non_local[stage] = nnx.Dict(
                    {
                        str(i): _non_local_block(options, stage, in_features, numerics)
                        for i in places
                    }
                )
        self.non_local = nnx.Dict(non_local)
        self.features = in_features

    @property
    def caffe2_keys(self) -> tuple[Row, ...]:
        """See VideoBackbone."""
        return CAFFE2_KEYS

    @property
    def attention_blocks(self) -> Mapping[str, NonLocal]:
        """See VideoBackbone: "non_local/res4/5" is that after block 5 of res4."""
        return {
            f"non_local/{stage}/{i}": block
            for stage, blocks in self.non_local.items()
            for i, block in blocks.items()
        }

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """See VideoBackbone: stem, res2/0, ..., pool2, res3/0, res3/1, non_local/res3/1, ..."""
        apply = traced_once(rematerialized(_apply, self.remat))

        def layer(module: nnx.Module) -> Layer:
            return lambda x: apply(module, x, None)

        attention = self.attention_blocks
        yield "split", layout.split
        yield "stem", layer(self.stem)
        for stage in STAGES:
            for index, block in enumerate(getattr(self, stage)):
                yield f"{stage}/{index}", layer(block)
                name = f"non_local/{stage}/{index}"
                if name in attention:
                    yield name, layer(attention[name])
            if stage == "res2":
                yield "pool2", lambda x: pool_pairs(x, 1)


def describe_caffe2_keys(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of a network by its blobs in a Caffe2 file, and their shapes."""
    blocks = len({key for key in shapes if re.fullmatch(r"res4_\d+_branch2a_w", key)})
    depths = [depth for depth, counts in BLOCKS_PER_STAGE.items() if counts[2] == blocks]
    stem = shapes.get("conv1_w", ())
    if not depths or len(stem) not in (4, 5):
        return "no network that is known"
    kind = "a 2D network" if len(stem) == 4 else "C2D" if stem[2] == 1 else "I3D"
    non_local = "with" if any(key.startswith("nonlocal_") for key in shapes) else "without"
    norm = "batch norm" if "res_conv1_bn_rm" in shapes else "affine layers"
    classes = f", {shapes['pred_w'][0]} classes" if shapes.get("pred_w") else ""
    width = f", width {stem[0]}"
    return f"{kind} R-{depths[0]} {non_local} non-local blocks, {norm}{width}{classes}"


def _is_inflated(stage: str, index: int) -> bool:
    """Whether the first kernel of a block of I3D covers three frames."""
    return stage == "res2" or index % 2 == (1 if stage == "res5" else 0)


def _non_local_block(
    options: Options, stage: str, features: int, numerics: Numerics
) -> VideoNonLocal:
    return VideoNonLocal(
        features,
        mode=options.mode,
        use_scale=options.use_scale,
        sub_sample=options.sub_sample,
        norm=options.norm == "batch",
        implementation=options.implementation,
        group_frames=options.group_frames if stage == "res3" else 0,
        numerics=numerics,
    )


def _apply(module: Stem | Bottleneck3d | VideoNonLocal, x: Features, _: None) -> FeatureMap:
    return module(x)
