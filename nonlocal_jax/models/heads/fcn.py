"""The fully convolutional head (Long, Shelhamer, Darrell, arXiv 1411.4038)."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads.head import (
    Features,
    Head,
    Inputs,
    Logits,
    Sizes,
    StageOptions,
    remat_of_heads,
)
from nonlocal_jax.models.layers import NORMAL_001, Conv, ConvNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, conv_norm
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.padding import Valid

Transformed = Float[Array, "n h w channels"]

TORCH_KEYS = (
    *conv_norm("convs/{i}", "convs.{i}"),
    *conv_norm("conv_cat", "conv_cat"),
    Row("classifier", "conv_seg", "conv"),
)


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """Settings of the head."""

    name: str = "fcn"
    num_convs: schema.Count = 2
    """Number of 3x3 convolutions, without the one of `concat_input`."""
    concat_input: bool = True
    """Whether one more 3x3 convolution reads the result together with the head's input."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return FCNHead(
        options.stage,
        stages[options.stage].features,
        options.channels,
        num_classes,
        num_convs=options.num_convs,
        concat_input=options.concat_input,
        dropout=options.dropout,
        numerics=numerics,
    )


class FCNHead(Head):
    """3x3 convolutions, a last one that also reads the head's input, dropout, 1x1 classifier.

    Args:
      stage: the name of the stage that the head reads.
      in_features: its channels.
      channels: width of the convolutions.
      num_classes: logits per pixel.
      num_convs: number of 3x3 convolutions before the one that reads the input again.
      concat_input: whether there is that one; the input comes first in the concatenation.
      dropout: probability that a whole channel is dropped before the classifier, in training.
      numerics: dtypes, memory and random numbers.
    """

    def __init__(
        self,
        stage: str,
        in_features: int,
        channels: int,
        num_classes: int,
        *,
        num_convs: int = 2,
        concat_input: bool = True,
        dropout: float = 0.1,
        numerics: Numerics,
    ):
        self.reads = (stage,)
        self.remat = remat_of_heads(numerics)
        conv_norm = partial(ConvNorm, **numerics.of_layers)
        widths = [in_features] + [channels] * num_convs
        self.convs = nnx.List([conv_norm(i, o, 3) for i, o in itertools.pairwise(widths)])
        self.conv_cat = conv_norm(in_features + channels, channels, 3) if concat_input else None
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(1, 2))
        self.classifier = Conv(
            channels,
            num_classes,
            1,
            use_bias=True,
            kernel_init=NORMAL_001,
            **numerics.of_layers,
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
        y = self.transform(x, inner)
        if self.conv_cat is not None:
            y = self.apply(self.conv_cat, (x, y), inner)
        y = self.dropout(y, rngs=rngs)
        return float32_or_wider(self.classifier(y))

    def transform(self, x: Features, valid: Valid | None) -> Transformed:
        """What happens between the head's input and `conv_cat`."""
        for layer in self.convs:
            x = self.apply(layer, (x,), valid)
        return x
