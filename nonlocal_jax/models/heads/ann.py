"""The asymmetric non-local head (Zhu, Xu, Bai, Huang, Bai, arXiv 1908.07678).

Each position attends to a few dozen means instead of to all positions (section 3.2):

    y_i = sum_k softmax_k(s theta(x_i) . P(phi(u))_k) P(gamma(u))_k,    s = 1 / sqrt(channels)

theta and phi are layers with norm and ReLU, gamma is linear. P is pyramid pooling: means over the
cells k of grids of 1, 3, 6 and 8 rows and columns, 110 in all. There are two such blocks. The
fusion block (AFNB) has its queries from a late stage x and its keys and values from an earlier
stage u. After it, the pyramid block (APNB) has all from one feature map (u = x), and theta = phi.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads.head import (
    AttentionMap,
    Features,
    Head,
    Inputs,
    Logits,
    Position,
    Sizes,
    StageName,
    own_sizes,
    position_at,
    remat_of_heads,
)
from nonlocal_jax.models.layers import NORMAL_001, UNIFORM_FAN_IN, BatchNorm, Conv, ConvNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, conv_norm, under
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.grid_means import grid_means
from nonlocal_jax.ops.layout import on_each_device
from nonlocal_jax.ops.padding import Valid

Keys = Float[Array, "n H W d"]  # the feature map of keys and values
Map = Float[Array, "n _ _ _"]
Cells = Float[Array, "n cells _"]
Grids = Annotated[tuple[schema.Count, ...], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class Options(schema.HeadOptions):
    """Settings of the head."""

    name: str = "ann"
    stages: tuple[StageName, StageName] = ("stage3", "stage4")
    """The stages of the backbone that the head reads: that of the keys of the first block, and that
    of its queries."""
    channels: schema.Count = 512
    """Width of the second block."""
    project_channels: schema.Count = 256
    """Width of queries, keys and values."""
    grids: Grids = (1, 3, 6, 8)
    """Rows and columns of each grid over whose cells keys and values are averaged."""
    dropout: schema.DropRate = 0.1
    """Probability that training drops a whole channel before each 3x3 convolution or classifier."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return ANNHead(options, stages, num_classes, numerics)


class PyramidAttention(nnx.Module):
    """y, and a linear layer after it.

    Args:
      of_queries: channels of x.
      of_keys: channels of u.
      out_features: channels of the result.
      options: widths and grids.
      numerics: dtypes, memory and random numbers.
      shared: whether theta = phi.
    """

    def __init__(
        self,
        of_queries: int,
        of_keys: int,
        out_features: int,
        options: Options,
        numerics: Numerics,
        *,
        shared: bool,
    ):
        channels = options.project_channels
        linear = partial(nnx.Linear, **numerics.of_layers)
        self.grids, self.scale = options.grids, 1 / math.sqrt(channels)
        self.phi = ConvNorm(of_keys, channels, 1, **numerics.of_layers)
        self.theta = None if shared else ConvNorm(of_queries, channels, 1, **numerics.of_layers)
        if shared and self.phi.norm is not None:
            # The published networks ran this layer twice a step, once for queries, once for keys.
            self.phi.norm.momentum = BatchNorm.momentum**2
        self.gamma = linear(of_keys, channels, kernel_init=UNIFORM_FAN_IN)
        self.out = linear(channels, out_features, kernel_init=nnx.initializers.zeros)

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """The names of the layers in PyTorch files."""
        if self.theta is None:  # there are two names for one layer
            projections = [*conv_norm("phi", "key_project", also="query_project")]
        else:
            projections = [*conv_norm("phi", "key_project"), *conv_norm("theta", "query_project")]
        return (
            *projections,
            Row("gamma", "value_project", "linear"),
            Row("out", "out_project", "linear"),
        )

    def __call__(self, x: Features, u: Keys, valid: Valid | None, valid_u: Valid | None) -> Map:
        """The result at all positions of x."""
        query, key = self._queries_and_keys(x, u, valid, valid_u)
        # gamma is linear, so P(gamma(u)) = gamma(P(u)), which takes gamma at 110 positions alone.
        value = self.gamma(self._pooled(u, valid_u))
        result: Map = self.out(on_each_device(self._attend, query, (key, value)))
        return result

    def _attend(self, query: Features, keys: tuple[Cells, Cells]) -> Map:
        """y = softmax(s query . key) value, for some rows of queries."""
        flat = query.reshape(query.shape[0], -1, query.shape[-1])
        key, value = keys
        y = softmax_attention(flat, key, value, scale=self.scale, implementation="chunked")
        return y.reshape(*query.shape[:-1], -1)

    def _queries_and_keys(
        self, x: Features, u: Keys, valid: Valid | None, valid_u: Valid | None
    ) -> tuple[Map, Cells]:
        """theta(x) and P(phi(u))."""
        phi = self.phi(u, valid=valid_u)
        query = phi if self.theta is None else self.theta(x, valid=valid)
        return query, self._pooled(phi, valid_u)

    def _pooled(self, u: Keys, valid_u: Valid | None) -> Cells:
        """P(u): the mean of u over each cell."""
        return grid_means(u, self.grids, own_sizes(u, valid_u)).astype(u.dtype)

    def weights(
        self,
        x: Features,
        u: Keys,
        position: Position,
        valid: Valid | None,
        valid_u: Valid | None,
    ) -> Float[Array, "n H W"]:
        """How much a position of x attends to each of u: a cell's weight is spread over it."""
        query, key = self._queries_and_keys(x, u, valid, valid_u)
        row, column = position
        at_position = query[jnp.arange(query.shape[0]), row, column]
        products = jnp.einsum("nc,nkc->nk", *map(float32_or_wider, (at_position, key)))
        of_cells = jax.nn.softmax(products * self.scale)
        sizes, one = own_sizes(u, valid_u), jnp.zeros((*u.shape[:3], 1), of_cells.dtype)
        spread = jax.linear_transpose(partial(grid_means, grids=self.grids, sizes=sizes), one)
        weights: Array = spread(of_cells[..., None])[0]
        return weights[..., 0]


class ANNHead(Head):
    """Fusion of two stages, 3x3 convolution, pyramid attention, 1x1 classifier."""

    def __init__(
        self, options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
    ):
        self.reads = options.stages
        self.remat = remat_of_heads(numerics)
        early, late = (stages[name].features for name in options.stages)
        channels = options.channels
        layer = partial(ConvNorm, **numerics.of_layers)
        self.fusion = PyramidAttention(late, early, late, options, numerics, shared=False)
        self.after_fusion = layer(2 * late, late, 1, relu=False)
        self.bottleneck = layer(late, channels, 3)
        self.context = PyramidAttention(
            channels, channels, channels, options, numerics, shared=True
        )
        self.after_context = layer(2 * channels, channels, 1)
        self.dropout = nnx.Dropout(options.dropout, broadcast_dims=(1, 2))
        self.classifier = Conv(
            channels, num_classes, 1, use_bias=True, kernel_init=NORMAL_001, **numerics.of_layers
        )

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return (
            *under("fusion", "fusion.stages.0", self.fusion.torch_keys),
            *conv_norm("after_fusion", "fusion.bottleneck"),
            *conv_norm("bottleneck", "bottleneck"),
            *under("context", "context.stages.0", self.context.torch_keys),
            *conv_norm("after_context", "context.bottleneck"),
            Row("classifier", "conv_seg", "conv"),
        )

    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """See Head."""
        _, inner = valid or (None, None)
        x = self._before_context(features, valid, rngs)
        context = self.context(x, x, inner, inner)
        x = self.apply(self.after_context, (context, x), inner)
        return float32_or_wider(self.classifier(self.dropout(x, rngs=rngs)))

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. It is the second block's."""
        _, inner = valid or (None, None)
        x = self._before_context(features, valid, None)
        sizes = own_sizes(x, inner)
        position = position_at(relative, sizes)
        return AttentionMap(self.context.weights(x, x, position, inner, inner), sizes)

    def _before_context(self, features: Inputs, valid: Sizes, rngs: nnx.Rngs | None) -> Features:
        (early, late), (valid_early, inner) = features, valid or (None, None)
        fused = self.fusion(late, early, inner, valid_early)
        x = self.apply(self.after_fusion, (fused, late), inner)
        return self.apply(self.bottleneck, (self.dropout(x, rngs=rngs),), inner)
