"""The head of interlaced sparse self-attention (Huang, Yuan, Guo, Zhang, Chen, Wang, 1907.12273).

The feature map is cut into blocks of p_h x p_w positions (section 3.2):

    far    each position attends to those with the same place in all blocks
    near   each position attends to those of its own block

One after the other, they connect every position with every other. With P places in a block and Q
blocks, a position has Q + P weights instead of N = Q P. Both attend in the same way, each with
weights of its own:

    y_i = rho(sum_j softmax_j(s theta(x_i) . phi(x_j)) g(x_j)),    s = 1 / sqrt(channels)

rho is a layer with norm and ReLU, theta and phi are two such layers each, g is linear.

Zeros around an image, half of them before it, make its size a multiple of the block's. They take
part as all positions do. heads/interlacing.py moves positions into their groups and back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads.head import (
    AttentionMap,
    Features,
    Head,
    Inputs,
    Logits,
    Sizes,
    StageOptions,
    own_sizes,
    position_at,
    remat_of_heads,
)
from nonlocal_jax.models.heads.interlacing import (
    Blocks,
    Groups,
    Partition,
    grouped,
    into_blocks,
    out_of_blocks,
    ungrouped,
)
from nonlocal_jax.models.layers import NORMAL_001, UNIFORM_FAN_IN, Conv, ConvNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, conv_norm, under
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.layout import on_each_device, split
from nonlocal_jax.ops.padding import valid_mask, zero_outside


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """Settings of the head."""

    name: str = "isa"
    channels: schema.Count = 512
    """Width of its convolutions, and of the values."""
    attention_channels: schema.Count = 256
    """Width of queries and keys."""
    group: schema.Size = (8, 8)
    """Rows and columns of a block."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return ISAHead(options, stages[options.stage].features, num_classes, numerics)


class GroupAttention(nnx.Module):
    """Attention within the groups of a partition.

    Args:
      partition: which positions are a group.
      options: widths, and the size of a block.
      numerics: dtypes, memory and random numbers.
    """

    def __init__(self, partition: Partition, options: Options, numerics: Numerics):
        features, channels = options.channels, options.attention_channels
        layer = partial(ConvNorm, kernel_size=1, **numerics.of_layers)
        self.partition, self.block = partition, options.group
        self.scale = 1 / math.sqrt(channels)
        self.theta = nnx.List([layer(features, channels), layer(channels, channels)])
        self.phi = nnx.List([layer(features, channels), layer(channels, channels)])
        self.g = nnx.Linear(features, features, kernel_init=UNIFORM_FAN_IN, **numerics.of_layers)
        self.rho = layer(features, features)

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """The names of the layers in PyTorch files."""
        return (
            *conv_norm("theta/{i}", "query_project.{i}"),
            *conv_norm("phi/{i}", "key_project.{i}"),
            Row("g", "value_project", "linear"),
            *conv_norm("rho", "output_project"),
        )

    def __call__(self, x: Features, blocks: Blocks) -> Features:
        """y for maps of whole blocks, of which each image has its own number."""
        query, key = self._projected(self.theta, x), self._projected(self.phi, x)
        groups = *map(self._groups, (query, key, self.g(x))), self._keys(x, blocks)
        attended = on_each_device(self._attend, groups, ())
        y: Features = self.rho(ungrouped(attended, self.partition, self.block, x))
        return y

    def _attend(self, groups: tuple[Array, Array, Array, Array | None], _: tuple[()]) -> Groups:
        """sum_j softmax_j(s query_i . key_j) value_j within each of some groups."""
        query, key, value, inside = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), groups)
        y = softmax_attention(
            query, key, value, scale=self.scale, key_valid=inside, implementation="chunked"
        )
        return y.reshape(groups[2].shape)

    def weights(
        self, x: Features, blocks: Blocks, counts: Float[Array, "n h w 1"]
    ) -> Float[Array, "n h w 1"]:
        """How much is attended to each position of x, where each position counts `counts` times."""
        theta, phi = (
            self._groups(float32_or_wider(self._projected(layers, x)))
            for layers in (self.theta, self.phi)
        )
        keys = self._keys(x, blocks)
        each = jax.nn.softmax(
            jnp.einsum("ngqc,ngkc->ngqk", theta, phi) * self.scale,
            axis=-1,
            where=True if keys is None else keys[:, :, None, :],
        )
        sums = jnp.einsum("ngqo,ngqk->ngko", self._groups(counts), each)
        return ungrouped(sums, self.partition, self.block, x)

    def _projected(self, layers: nnx.List[ConvNorm], x: Features) -> Float[Array, "n h w _"]:
        for layer in layers:
            x = layer(x)
        return x

    def _groups(self, x: Array) -> Array:
        """[n, groups, members, ...], with the groups over the devices."""
        return split(grouped(x, self.partition, self.block))

    def _keys(self, x: Features, blocks: Blocks) -> Bool[Array, "n groups members"] | None:
        """Which members are in a block of the image. A block that is not has no use: None."""
        if self.partition == "near":
            return None
        inside = valid_mask(blocks * jnp.array(self.block, blocks.dtype), x.shape[1:3])
        mask: Bool[Array, "n groups members"] = self._groups(inside)[..., 0]
        return mask


class ISAHead(Head):
    """3x3 convolution, far, near, a 1x1 convolution of the result beside its input, classifier."""

    def __init__(self, options: Options, features: int, num_classes: int, numerics: Numerics):
        self.reads = (options.stage,)
        self.remat = remat_of_heads(numerics)
        self.block, channels = options.group, options.channels
        self.before = ConvNorm(features, channels, 3, **numerics.of_layers)
        self.far = GroupAttention("far", options, numerics)
        self.near = GroupAttention("near", options, numerics)
        self.after = ConvNorm(2 * channels, channels, 1, **numerics.of_layers)
        self.dropout = nnx.Dropout(options.dropout, broadcast_dims=(1, 2))
        self.classifier = Conv(
            channels, num_classes, 1, use_bias=True, kernel_init=NORMAL_001, **numerics.of_layers
        )

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return (
            *conv_norm("before", "in_conv"),
            *under("far", "global_relation", self.far.torch_keys),
            *under("near", "local_relation", self.near.torch_keys),
            *conv_norm("after", "out_conv"),
            Row("classifier", "conv_seg", "conv"),
        )

    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """See Head."""
        (x,), (inner,) = features, valid or (None,)
        x = self.apply(self.before, (x,), inner)
        whole, blocks, start = into_blocks(x, inner, self.block)
        y = self.near(self.far(whole, blocks), blocks)
        y = self.apply(self.after, (out_of_blocks(y, x.shape[1:3], start, self.block), x), inner)
        return float32_or_wider(self.classifier(self.dropout(y, rngs=rngs)))

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. It is the product of near and far.

        What a position attends to are those of its block, and they have attended to others. The
        shares of the zeros around an image are left out, so the sum may be below 1.
        """
        (x,), (inner,) = features, valid or (None,)
        x = self.before(x, valid=inner)
        sizes = own_sizes(x, inner)
        row, column = position_at(relative, sizes)
        one = jnp.zeros((*x.shape[:3], 1)).at[jnp.arange(x.shape[0]), row, column].set(1)
        whole, blocks, start = into_blocks(x, inner, self.block)
        counts, _, _ = into_blocks(one, inner, self.block)
        counts = self.near.weights(self.far(whole, blocks), blocks, counts)
        weights = self.far.weights(whole, blocks, counts)
        weights = out_of_blocks(weights, x.shape[1:3], start, self.block)
        return AttentionMap(zero_outside(weights, inner)[..., 0], sizes)
