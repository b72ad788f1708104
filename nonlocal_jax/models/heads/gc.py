"""The global context head (Cao et al., GCNet, arXiv 1904.11492).

The block is their equation 5. A query changes the weights of a trained non-local block little, so
all positions i share one sum over the positions j:

    z_i = x_i + W_v2 ReLU(LN(W_v1 sum_j a_j x_j))        a = softmax_j(W_k x_j)

It costs as much as one 1x1 convolution to a single channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads import fcn
from nonlocal_jax.models.heads.block_head import BlockHead, BlockOptions
from nonlocal_jax.models.heads.head import Features, Head, Position
from nonlocal_jax.models.layers import KAIMING_FAN_IN, UNIFORM_FAN_IN, LayerNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, under
from nonlocal_jax.ops.attention.unary import unary_attention, unary_scores, unary_weights
from nonlocal_jax.ops.dtypes import wide
from nonlocal_jax.ops.padding import Valid, zero_outside

TORCH_KEYS = (
    *fcn.TORCH_KEYS,
    *under(
        "global_context",
        "gc_block",
        (
            Row("key", "conv_mask", "linear"),
            Row("reduce", "channel_add_conv.0", "linear"),
            Row("norm", "channel_add_conv.1", "layer_norm"),
            Row("expand", "channel_add_conv.3", "linear"),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Options(BlockOptions):
    """Settings of the head."""

    name: str = "gc"
    reduction: schema.Count = 4
    """The transform of the context is this factor narrower than the block."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return GCHead(options, stages, num_classes, numerics)


class GlobalContext(nnx.Module):
    """The block. The context of an image is one vector, and is computed in float32.

    Args:
      features: channels of the input and the output.
      reduction: the transform has features // reduction channels, at least 1.
      numerics: dtypes and random numbers.
    """

    def __init__(self, features: int, reduction: int, numerics: Numerics):
        inner = max(features // reduction, 1)
        layer = replace(numerics, dtype=wide(numerics.dtype)).of_layers
        linear = partial(nnx.Linear, kernel_init=UNIFORM_FAN_IN, **layer)
        self.key = linear(features, 1, kernel_init=KAIMING_FAN_IN)
        self.reduce = linear(features, inner)
        self.norm = LayerNorm(inner, param_dtype=numerics.param_dtype)
        self.expand = linear(inner, features, kernel_init=nnx.initializers.zeros)

    def __call__(self, x: Features, valid: Valid | None = None) -> Features:
        """See Block."""
        context = unary_attention(self._weights(x, valid), x)
        z = self.expand(nnx.relu(self.norm(self.reduce(context))))
        return zero_outside(x + z[:, None, None].astype(x.dtype), valid)

    def attention_map(
        self, x: Features, position: Position, valid: Valid | None = None
    ) -> Float[Array, "n h w"]:
        """See Block. It is the same for all positions."""
        return self._weights(x, valid)

    def _weights(self, x: Features, valid: Valid | None) -> Float[Array, "n h w"]:
        """a; the bias of W_k would change nothing but the files, which have it."""
        scores = unary_scores(x, self.key.kernel[...][:, 0])
        assert self.key.bias is not None
        return unary_weights(scores + self.key.bias[...].astype(scores.dtype), valid)


class GCHead(BlockHead):
    """The FCN head with a global context block between its two convolutions."""

    def __init__(
        self, options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
    ):
        super().__init__(options, stages, num_classes, numerics)
        self.global_context = GlobalContext(options.channels, options.reduction, numerics)

    @property
    def block(self) -> GlobalContext:
        """See BlockHead."""
        return self.global_context

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS
