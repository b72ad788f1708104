"""The dual attention head (Fu et al., DANet, arXiv 1809.02983).

Two branches, each between two 3x3 convolutions; the sum of their results is classified. Position
attention (equations 1 and 2), where B, C and D are linear in A, and S is over positions:

    E_j = alpha sum_i s_ji D_i + A_j        s_ji = softmax_i(B_i . C_j)

Channel attention (equations 3 and 4), where A_i is a whole channel:

    E_j = beta sum_i x_ji A_i + A_j         x_ji = softmax_i(-A_i . A_j)

The paper has no minus there. The authors' code has it, and so do all published weights: a channel
attends to those that differ from it. Each branch has a classifier and a loss of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.attention_factors import AttentionFactors, ImageFactors
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads.attention_options import AttentionOptions
from nonlocal_jax.models.heads.head import (
    AttentionMap,
    Features,
    Head,
    Inputs,
    Logits,
    Position,
    Sizes,
    StageOptions,
    Weighted,
    own_sizes,
    position_at,
    remat_of_heads,
)
from nonlocal_jax.models.layers import NORMAL_001, UNIFORM_FAN_IN, Conv, ConvNorm, Factor
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, conv_norm
from nonlocal_jax.ops.attention.keys import products
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.layout import on_each_device, whole_rows
from nonlocal_jax.ops.padding import Valid, valid_mask, zero_outside

TORCH_KEYS = (
    *conv_norm("before_position", "pam_in_conv"),
    *conv_norm("after_position", "pam_out_conv"),
    *conv_norm("before_channel", "cam_in_conv"),
    *conv_norm("after_channel", "cam_out_conv"),
    Row("position/query", "pam.query_project", "linear"),
    Row("position/key", "pam.key_project", "linear"),
    Row("position/value", "pam.value_project", "linear"),
    Row("position/alpha", "pam.gamma", "factor"),
    Row("channel/beta", "cam.gamma", "factor"),
    Row("classifier", "conv_seg", "conv"),
    Row("position_classifier", "pam_conv_seg", "conv"),
    Row("channel_classifier", "cam_conv_seg", "conv"),
)


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions, AttentionOptions):
    """Settings of the head."""

    name: str = "da"
    position_channels: schema.Count = 64
    """Width of queries and keys of position attention."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return DAHead(options, stages[options.stage].features, num_classes, numerics)


class PositionAttention(nnx.Module):
    """Equations 1 and 2.

    Args:
      features: channels of the input and the output.
      options: of the head.
      numerics: dtypes and random numbers.
    """

    def __init__(self, features: int, options: Options, numerics: Numerics):
        linear = partial(nnx.Linear, features, kernel_init=UNIFORM_FAN_IN, **numerics.of_layers)
        self.query = linear(options.position_channels)
        self.key = linear(options.position_channels)
        self.value = linear(features)
        self.alpha = Factor(param_dtype=numerics.param_dtype)
        self.implementation = options.implementation

    def __call__(self, x: Features, valid: Valid | None) -> Features:
        """E, with zeros outside of the images."""
        keys = _flat(self.key(x)), _flat(self.value(x)), _inside(x, valid)
        return zero_outside(self.alpha(on_each_device(self._sums, self.query(x), keys)) + x, valid)

    def attention_map(
        self, x: Features, position: Position, valid: Valid | None
    ) -> Float[Array, "n h w"]:
        """s of a position of each image, in float32."""
        index = jnp.ravel_multi_index(position, x.shape[1:3], mode="clip")
        query = jnp.take_along_axis(_flat(self.query(x)), index[:, None, None], axis=1)
        scores = products("nqc,nkc->nk", query, _flat(self.key(x)))
        weights = jax.nn.softmax(scores, axis=-1, where=_inside(x, valid))
        return weights.reshape(x.shape[:3])

    def attention_factors(self, x: Features) -> AttentionFactors:
        """The queries and keys that `attention_map` is computed from."""
        query, key = (layer(x).astype(jnp.float32) for layer in (self.query, self.key))
        return AttentionFactors(query, key)

    def _sums(
        self, query: Features, keys: tuple[Array, Array, Bool[Array, "n k"] | None]
    ) -> Float[Array, "n h w d"]:
        key, value, inside = keys
        summed = softmax_attention(
            query.reshape(query.shape[0], -1, query.shape[-1]),
            key,
            value,
            key_valid=inside,
            implementation=self.implementation,
        )
        return summed.reshape(*query.shape[:3], -1)


class ChannelAttention(nnx.Module):
    """Equations 3 and 4: the weights are a matrix [channels, channels]."""

    def __init__(self, numerics: Numerics):
        self.beta = Factor(param_dtype=numerics.param_dtype)

    def __call__(self, x: Features, valid: Valid | None) -> Features:
        """E. It is 0 where `x` is, so outside of the images: `valid` need not be known."""
        weights = jax.nn.softmax(-products("nhwj,nhwi->nji", x, x), axis=-1)
        summed = products("nji,nhwi->nhwj", weights.astype(x.dtype), x)
        return self.beta(summed.astype(x.dtype)) + x


def _flat(x: Features) -> Float[Array, "n p c"]:
    # If rows do not divide over the devices, a reshape needs whole rows.
    return whole_rows(x).reshape(x.shape[0], -1, x.shape[-1])


def _inside(x: Features, valid: Valid | None) -> Bool[Array, "n p"] | None:
    return None if valid is None else valid_mask(valid, x.shape[1:3]).reshape(x.shape[0], -1)


class DAHead(Head):
    """Position attention and channel attention side by side, and three classifiers.

    Args:
      options: of the head.
      features: channels of the stage that it reads.
      num_classes: logits per pixel.
      numerics: dtypes, memory and random numbers.
    """

    def __init__(self, options: Options, features: int, num_classes: int, numerics: Numerics):
        self.reads, self.remat = (options.stage,), remat_of_heads(numerics)
        width = options.channels
        layer = partial(ConvNorm, out_features=width, kernel_size=3, **numerics.of_layers)
        self.before_position, self.before_channel = layer(features), layer(features)
        self.position = PositionAttention(width, options, numerics)
        self.channel = ChannelAttention(numerics)
        self.after_position, self.after_channel = layer(width), layer(width)
        classifier = partial(Conv, width, num_classes, 1, use_bias=True, **numerics.of_layers)
        self.classifier = classifier(kernel_init=NORMAL_001)
        self.position_classifier = classifier(kernel_init=UNIFORM_FAN_IN)
        self.channel_classifier = classifier(kernel_init=UNIFORM_FAN_IN)
        self.dropout = nnx.Dropout(options.dropout, broadcast_dims=(1, 2))

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS

    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """See Head. The classifiers of the branches are for training alone."""
        position, channel = self._branches(features, valid)
        return self._classify(self.classifier, position + channel, rngs)

    def training_logits(
        self, features: Inputs, *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Weighted]:
        """See Head: the logits of `__call__`, and those of each branch."""
        position, channel = self._branches(features, None)
        logits = {
            "": self._classify(self.classifier, position + channel, rngs),
            "position": self._classify(self.position_classifier, position, rngs),
            "channel": self._classify(self.channel_classifier, channel, rngs),
        }
        return {name: Weighted(1.0, value) for name, value in logits.items()}

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. It is that of position attention."""
        (x,), (inner,) = features, valid or (None,)
        sizes = own_sizes(x, inner)
        before = self.before_position(x, valid=inner)
        weights = self.position.attention_map(before, position_at(relative, sizes), inner)
        return AttentionMap(weights, sizes)

    def attention_factors(self, features: Inputs, valid: Sizes = None) -> ImageFactors:
        """See Head. They are those of position attention."""
        (x,), (inner,) = features, valid or (None,)
        sizes = own_sizes(x, inner)
        before = self.before_position(x, valid=inner)
        return ImageFactors(self.position.attention_factors(before), sizes, sizes)

    def _branches(self, features: Inputs, valid: Sizes) -> tuple[Features, Features]:
        (x,), (inner,) = features, valid or (None,)
        position = self.position(self.apply(self.before_position, (x,), inner), inner)
        channel = self.channel(self.apply(self.before_channel, (x,), inner), inner)
        return (
            self.apply(self.after_position, (position,), inner),
            self.apply(self.after_channel, (channel,), inner),
        )

    def _classify(self, classifier: Conv, x: Features, rngs: nnx.Rngs | None) -> Logits:
        return float32_or_wider(classifier(self.dropout(x, rngs=rngs)))
