"""The disentangled non-local head (Yin et al., arXiv 2006.06668).

The exponent of a non-local block splits into a whitened pairwise term and a unary one. In one
softmax they disturb each other, so this block has a softmax for each of them:

    y_i = sum_j softmax_j(s (q_i - mu_q) . (k_j - mu_k) / temperature) g_j
        + sum_j softmax_j(m_j) g_j
    z_i = W_z y_i + x_i

q, k, m and g are linear in x, with the layers theta, phi, unary and g. mu_q and mu_k are means over
the positions of the image. s is 1 / sqrt(width of q), and `temperature` an option.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt, Le
from flax import nnx
from jaxtyping import Array, Float, Int

from nonlocal_jax.config import schema
from nonlocal_jax.models import non_local
from nonlocal_jax.models.attention_factors import AttentionFactors, ImageFactors
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads import fcn
from nonlocal_jax.models.heads.attention_options import AttentionOptions
from nonlocal_jax.models.heads.block_head import BlockHead, BlockOptions
from nonlocal_jax.models.heads.head import Head, Inputs, Position, Sizes
from nonlocal_jax.models.layers import UNIFORM_FAN_IN
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, under
from nonlocal_jax.ops.attention.unary import unary_attention, unary_scores, unary_weights
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.padding import Valid, zero_outside

Features = Float[Array, "n h w c"]

TORCH_KEYS = (
    *fcn.TORCH_KEYS,
    *under(
        "disentangled",
        "dnl_block",
        (*non_local.TORCH_KEYS, Row("unary", "conv_mask", "linear")),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Options(BlockOptions, AttentionOptions):
    """Settings of the head."""

    name: str = "dnl"
    reduction: schema.Count = 2
    """The block is this factor narrower: q, k and g have channels / reduction channels."""
    use_scale: bool = True
    """Whether the whitened logits are divided by the square root of that width: s."""
    temperature: Annotated[float, Gt(0), Le(1e3)] = 0.05
    """The whitened logits are divided by it, too."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return DNLHead(options, stages, num_classes, numerics)


class DisentangledNonLocal2d(non_local.NonLocal2d):
    """The block: a non-local one whose theta and phi, q and k, are whitened, and a unary term.

    Args:
      options: of the head.
      numerics: dtypes and random numbers.
    """

    def __init__(self, options: Options, numerics: Numerics):
        super().__init__(
            options.channels,
            reduction=options.reduction,
            use_scale=options.use_scale,
            implementation=options.implementation,
            **numerics.of_layers,
        )
        self.scale /= options.temperature  # s / temperature
        self.unary = nnx.Linear(
            options.channels, 1, kernel_init=UNIFORM_FAN_IN, **numerics.of_layers
        )

    def _aggregate(self, x: Features, valid: Valid | None) -> Float[Array, "n h w d"]:
        """y, a line for each of its two sums."""
        whitened = self._embed(x, valid)
        pairwise = self._gather(whitened)  # sum_j softmax_j(self.scale * query_i . key_j) value_j
        unary = unary_attention(
            self._unary_weights(x, valid), whitened.value.reshape(pairwise.shape)
        )
        return pairwise + unary[:, None, None].astype(pairwise.dtype)

    def _embed(self, x: Features, valid: Valid | None) -> non_local.Embeddings:
        """q - mu_q, k - mu_k and g."""
        found = super()._embed(x, valid)
        key = found.key.reshape(*x.shape[:3], -1)
        key = _whitened(key, valid).reshape(found.key.shape)
        return found._replace(query=_whitened(found.query, valid), key=key)

    def _unary_weights(self, x: Features, valid: Valid | None) -> Float[Array, "n h w"]:
        """softmax_j(m_j)."""
        # Its bias shifts all m_j, which the softmax takes away again.
        return unary_weights(unary_scores(x, self.unary.kernel[...][:, 0]), valid)

    def attention_map(
        self,
        x: Features,
        position: tuple[int | Int[Array, "*n"], ...] | Position,
        valid: Int[Array, "n ndim"] | None = None,
    ) -> Float[Array, "n h w"]:
        """The mean of both softmaxes, the position's whitened one and the unary one.

        Each sums to one, and so does their mean. y has their sum.
        """
        whitened = super().attention_map(x, position, valid)
        return (whitened + self._unary_weights(self._cast(x, valid), valid)) / 2

    def attention_factors(
        self, x: Features, valid: Int[Array, "n ndim"] | None = None
    ) -> AttentionFactors:
        """See NonLocal: whitened queries and keys, and the unary map."""
        unary = self._unary_weights(self._cast(x, valid), valid)
        return dataclasses.replace(super().attention_factors(x, valid), unary=unary)


def _whitened(x: Features, valid: Valid | None) -> Features:
    """`x` minus its mean over the positions of each image."""
    wide = zero_outside(float32_or_wider(x), valid)
    count = x.shape[1] * x.shape[2] if valid is None else jnp.maximum(jnp.prod(valid, axis=1), 1)
    count = jnp.asarray(count, wide.dtype).reshape(-1, 1, 1, 1)
    mean = jnp.sum(wide, axis=(1, 2), keepdims=True) / count
    return (wide - mean).astype(x.dtype)


class DNLHead(BlockHead):
    """The FCN head with a disentangled non-local block between its two convolutions."""

    def __init__(
        self, options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
    ):
        super().__init__(options, stages, num_classes, numerics)
        self.disentangled = DisentangledNonLocal2d(options, numerics)

    @property
    def block(self) -> DisentangledNonLocal2d:
        """See BlockHead."""
        return self.disentangled

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS

    def attention_factors(self, features: Inputs, valid: Sizes = None) -> ImageFactors:
        """See Head."""
        x, inner, sizes = self.before_block(features, valid)
        return ImageFactors(self.disentangled.attention_factors(x, inner), sizes, sizes)
