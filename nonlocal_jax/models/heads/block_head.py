"""The form that the non-local head and its nearest relatives share.

    3x3 convolution -> block -> 3x3 convolution -> 3x3 convolution that also reads the head's input
    -> dropout -> 1x1 classifier

A block maps a feature map to one of the same shape. With the identity for a block, it is the FCN
head.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.heads import fcn
from nonlocal_jax.models.heads.head import (
    AttentionMap,
    Features,
    Inputs,
    Position,
    Sizes,
    StageOptions,
    own_sizes,
    position_at,
)
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.ops.padding import Valid


@dataclass(frozen=True, kw_only=True)
class BlockOptions(StageOptions):
    """Settings of all heads of this form."""

    concat_input: bool = True
    """Whether one more 3x3 convolution reads the result together with the head's input."""


@runtime_checkable
class Block(Protocol):
    """What is between the two convolutions."""

    def __call__(self, x: Features, valid: Valid | None = None) -> Features:
        """The result, shaped like `x`, with zeros outside of the images."""

    def attention_map(
        self, x: Features, position: Position, valid: Valid | None = None
    ) -> Float[Array, "n _ _"]:
        """What the block attends to at a position (row, column) of each image, in float32."""


class BlockHead(fcn.FCNHead):
    """The FCN head with a block between its two convolutions."""

    def __init__(
        self,
        options: BlockOptions,
        stages: Mapping[str, Stage],
        num_classes: int,
        numerics: Numerics,
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

    @property
    @abc.abstractmethod
    def block(self) -> Block:
        """The block, which a subclass holds under a name of its own."""

    def transform(self, x: Features, valid: Valid | None) -> fcn.Transformed:
        """Convolution, block, convolution."""
        before, after = self.convs
        x = self.block(self.apply(before, (x,), valid), valid)
        return self.apply(after, (x,), valid)

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. It is the block's."""
        x, inner, sizes = self.before_block(features, valid)
        position = position_at(relative, sizes)
        return AttentionMap(self.block.attention_map(x, position, inner), sizes)

    def before_block(
        self, features: Inputs, valid: Sizes
    ) -> tuple[Features, Valid | None, Int[Array, "n 2"]]:
        """What the block is given, `valid` of it, and the size of each image in it."""
        (x,), (inner,) = features, valid or (None,)
        return self.convs[0](x, valid=inner), inner, own_sizes(x, inner)
