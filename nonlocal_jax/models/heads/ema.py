"""The head of expectation-maximization attention (Li, Zhong, Wu, Yang, Lin, Liu, 1907.13426).

The features x_i of an image are written with K bases mu_k instead of with each other (section 3):

    E step      z_ik = softmax_k(x_i . mu_k)
    M step      mu_k = sum_i z_ik x_i / sum_i z_ik,   divided by its length
    the result  sum_k z_ik mu_k

Both steps are taken T times. Every image starts with the same bases, which are no parameters: they
are a running mean, in training, of the bases that the images end with. No gradient goes through the
steps, so what precedes them is trained by the branch beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
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
    Sizes,
    StageOptions,
    own_sizes,
    position_at,
    remat_of_heads,
)
from nonlocal_jax.models.layers import NORMAL_001, Conv, ConvNorm, freeze
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, conv_norm
from nonlocal_jax.ops.attention.keys import products
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.padding import Valid, zero_outside

TORCH_KEYS = (
    *conv_norm("before", "ema_in_conv"),
    Row("linear", "ema_mid_conv.conv", "conv"),
    Row("attention", "ema_module", "bases"),
    *conv_norm("after", "ema_out_conv"),
    *conv_norm("bottleneck", "bottleneck"),
    *conv_norm("conv_cat", "conv_cat"),
    Row("classifier", "conv_seg", "conv"),
)
LEAST_LENGTH = 1e-12  # so that a sum of nothing is not divided by 0

Bases = Float[Array, "n c k"]
Shares = Float[Array, "n h w k"]


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """Settings of the head."""

    name: str = "ema"
    channels: schema.Count = 256
    """Width of the convolutions after the attention."""
    ema_channels: schema.Count = 512
    """Width of the bases."""
    bases: schema.Count = 64
    """K, the number of bases."""
    steps: schema.Count = 3
    """T, how often both steps are taken."""
    momentum: schema.Probability = 0.1
    """Share of the images' bases in the running mean."""
    concat_input: bool = True
    """Whether one more 3x3 convolution reads the result together with the head's input."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return EMAHead(options, stages[options.stage].features, num_classes, numerics)


class EMAttention(nnx.Module):
    """The steps, and the bases that they start with.

    Args:
      options: numbers of bases and steps, width, and momentum.
      rngs: for the first bases.
    """

    def __init__(self, options: Options, rngs: nnx.Rngs):
        self.steps, self.momentum = options.steps, options.momentum
        first = jax.random.normal(rngs.params(), (options.ema_channels, options.bases))
        self.bases = nnx.BatchStat(_of_length_1(first, axis=0))
        self.use_running_average = False  # evaluation sets it, as for batch norms

    def __call__(self, x: Features, valid: Valid | None) -> Features:
        """The result at all positions, shaped like `x`; updates the bases in training."""
        z, bases = self.shares_and_bases(x, valid)
        if not self.use_running_average:
            mean = _of_length_1(jnp.mean(bases, axis=0), axis=0)
            running = (1 - self.momentum) * self.bases[...] + self.momentum * mean
            self.bases.set_value(running)
        return products("nhwk,nck->nhwc", z.astype(x.dtype), bases.astype(x.dtype)).astype(x.dtype)

    def shares_and_bases(self, x: Features, valid: Valid | None) -> tuple[Shares, Bases]:
        """z of the last step, which is 0 outside of the images, and mu after it; in float32."""
        x = jax.lax.stop_gradient(x)
        bases = jnp.broadcast_to(self.bases[...], (x.shape[0], *self.bases.shape))
        for _ in range(self.steps):
            logits = products("nhwc,nck->nhwk", x, bases.astype(x.dtype))
            z = zero_outside(jax.nn.softmax(logits), valid)
            means = products("nhwc,nhwk->nck", x, _with_sum_1(z).astype(x.dtype))
            bases = _of_length_1(means, axis=1)
        return z, bases


def _with_sum_1(z: Shares) -> Shares:
    """The shares of all positions of an image in each base, with the sum 1."""
    return z / jnp.maximum(jnp.sum(z, axis=(1, 2), keepdims=True), LEAST_LENGTH)


def _of_length_1(bases: Float[Array, "*n c k"], axis: int) -> Float[Array, "*n c k"]:
    length = jnp.sqrt(jnp.sum(jnp.square(bases), axis=axis, keepdims=True))
    return bases / jnp.maximum(length, LEAST_LENGTH)


class EMAHead(Head):
    """3x3 convolution, attention and a branch beside it, 3x3 convolutions, 1x1 classifier."""

    def __init__(self, options: Options, features: int, num_classes: int, numerics: Numerics):
        self.reads = (options.stage,)
        self.remat = remat_of_heads(numerics)
        inner, channels = options.ema_channels, options.channels
        layer = partial(ConvNorm, **numerics.of_layers)
        self.before = layer(features, inner, 3)
        self.linear = Conv(inner, inner, 1, use_bias=True, **numerics.of_layers)
        freeze(self.linear)  # no gradient reaches it
        self.attention = EMAttention(options, numerics.rngs)
        self.after = layer(inner, inner, 1, relu=False)
        self.bottleneck = layer(inner, channels, 3)
        self.conv_cat = layer(features + channels, channels, 3) if options.concat_input else None
        self.dropout = nnx.Dropout(options.dropout, broadcast_dims=(1, 2))
        self.classifier = Conv(
            channels, num_classes, 1, use_bias=True, kernel_init=NORMAL_001, **numerics.of_layers
        )

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS

    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """See Head."""
        (x,), (inner,) = features, valid or (None,)
        beside = self.apply(self.before, (x,), inner)
        attended = nnx.relu(self.attention(self.linear(beside), inner))
        y = nnx.relu(beside + self.apply(self.after, (attended,), inner))
        y = self.apply(self.bottleneck, (y,), inner)
        if self.conv_cat is not None:
            y = self.apply(self.conv_cat, (x, y), inner)
        return float32_or_wider(self.classifier(self.dropout(y, rngs=rngs)))

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. It is the share of each position in the bases, as the position uses them.

        Without their scaling to length 1, the result at i is sum_j (sum_k z_ik z_jk / sum_l z_lk)
        x_j. The factor of x_j is the weight.
        """
        (x,), (inner,) = features, valid or (None,)
        x = self.linear(self.before(x, valid=inner))
        sizes = own_sizes(x, inner)
        row, column = position_at(relative, sizes)
        z, _ = self.attention.shares_and_bases(x, inner)
        own = z[jnp.arange(x.shape[0]), row, column]
        return AttentionMap(jnp.einsum("nhwk,nk->nhw", _with_sum_1(z), own), sizes)
