"""The non-local head (Wang, Girshick, Gupta, He, arXiv 1711.07971): see models/non_local.py."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models import non_local
from nonlocal_jax.models.attention_factors import ImageFactors
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads import fcn
from nonlocal_jax.models.heads.attention_options import AttentionOptions
from nonlocal_jax.models.heads.block_head import BlockHead, BlockOptions
from nonlocal_jax.models.heads.head import AttentionMap, Head, Inputs, Sizes
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, under

TORCH_KEYS = (*fcn.TORCH_KEYS, *under("non_local", "nl_block", non_local.TORCH_KEYS))


@dataclass(frozen=True, kw_only=True)
class Options(BlockOptions, AttentionOptions):
    """Settings of the head."""

    name: str = "nonlocal"
    mode: non_local.Mode = "embedded_gaussian"
    """The pairwise function f."""
    reduction: schema.Count = 2
    """The block is this factor narrower: theta, phi and g have channels / reduction channels."""
    use_scale: bool = True
    """Whether embedded_gaussian divides its logits by the square root of that width."""
    sub_sample: bool = False
    """Whether keys and values are max-pooled 2x2, which leaves a quarter of them."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return NonLocalHead(options, stages, num_classes, numerics)


class NonLocalHead(BlockHead):
    """The FCN head with a non-local block between its two convolutions."""

    def __init__(
        self, options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
    ):
        super().__init__(options, stages, num_classes, numerics)
        self.non_local = non_local.NonLocal2d(
            options.channels,
            mode=options.mode,
            reduction=options.reduction,
            use_scale=options.use_scale,
            sub_sample=options.sub_sample,
            implementation=options.implementation,
            **numerics.of_layers,
        )

    @property
    def block(self) -> non_local.NonLocal2d:
        """See BlockHead."""
        return self.non_local

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. The map is that of the keys, half as large with `sub_sample`."""
        found = super().attention_map(features, relative, valid)
        return found._replace(sizes=found.sizes // 2) if self.non_local.sub_sample else found

    def attention_factors(self, features: Inputs, valid: Sizes = None) -> ImageFactors:
        """See Head."""
        x, inner, sizes = self.before_block(features, valid)
        key_sizes = sizes // 2 if self.non_local.sub_sample else sizes
        return ImageFactors(self.non_local.attention_factors(x, inner), sizes, key_sizes)
