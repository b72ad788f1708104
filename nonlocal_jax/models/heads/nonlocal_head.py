"""The non-local head (Wang, Girshick, Gupta, He, arXiv 1711.07971): see models/non_local.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models import non_local
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads import fcn
from nonlocal_jax.models.heads.head import (
    AttentionMap,
    Features,
    Head,
    Inputs,
    Sizes,
    StageName,
    own_sizes,
    position_at,
)
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, under
from nonlocal_jax.ops.attention.softmax import Implementation
from nonlocal_jax.ops.padding import Valid

TORCH_KEYS = (*fcn.TORCH_KEYS, *under("non_local", "nl_block", non_local.TORCH_KEYS))


@dataclass(frozen=True, kw_only=True)
class Options(schema.HeadOptions):
    """Settings of the head."""

    name: str = "nonlocal"
    stage: StageName = "stage4"
    """The stage of the backbone that the head reads."""
    channels: schema.Count = 512
    """Width of its convolutions."""
    concat_input: bool = True
    """Whether one more 3x3 convolution reads the result together with the head's input."""
    dropout: schema.DropRate = 0.1
    """Probability that training drops a whole channel before the classifier."""
    mode: non_local.Mode = "embedded_gaussian"
    """The pairwise function f."""
    reduction: schema.Count = 2
    """The block is this factor narrower: theta, phi and g have channels / reduction channels."""
    use_scale: bool = True
    """Whether embedded_gaussian divides its logits by the square root of that width."""
    sub_sample: bool = False
    """Whether keys and values are max-pooled 2x2, which leaves a quarter of them."""
    implementation: Implementation = "auto"
    """Kernel of the Gaussian modes. auto: the fastest that the platform has, see
    ops/attention/softmax.py."""

    def for_platform(self, platform: str, dtype: str) -> "Options":
        """A TPU's kernel must be named where the program is compiled on another machine."""
        if self.implementation != "auto" or platform != "tpu":
            return self
        return replace(self, implementation="pallas" if dtype == "bfloat16" else "chunked")


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return NonLocalHead(options, stages, num_classes, numerics)


class NonLocalHead(fcn.FCNHead):
    """The FCN head with a non-local block between its two convolutions."""

    def __init__(
        self, options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
    ):
        super().__init__(
            options.stage,
            stages[options.stage].features,
            options.channels,
            num_classes,
            num_convs=2,
            concat_input=options.concat_input,
            dropout=options.dropout,
            numerics=numerics,
        )
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
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head."""
        return TORCH_KEYS

    def transform(self, x: Features, valid: Valid | None) -> fcn.Transformed:
        """Convolution, non-local block, convolution."""
        before, after = self.convs
        x = self.non_local(self._apply(before, (x,), valid), valid)
        return self._apply(after, (x,), valid)

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. The map is that of the keys, half as large with `sub_sample`."""
        (x,), (inner,) = features, valid or (None,)
        sizes = own_sizes(x, inner)
        position = position_at(relative, sizes)
        weights = self.non_local.attention_map(self.convs[0](x, valid=inner), position, inner)
        return AttentionMap(weights, sizes // 2 if self.non_local.sub_sample else sizes)
