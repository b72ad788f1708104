"""Decode heads: from a backbone stage to class logits at its resolution."""

import itertools
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from nonlocal_jax.models.layers import NORMAL_001, Conv, ConvNorm
from nonlocal_jax.models.non_local import NonLocal2d
from nonlocal_jax.models.remat import rematerialized
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.padding import Valid

Features = Float[Array, "n h w c"]
Position = tuple[int | Int[Array, "*n"], int | Int[Array, "*n"]]  # row, column of a feature map


class FCNHead(nnx.Module):
    """3x3 convolutions, a last one that also reads the head's input, dropout, 1x1 classifier.

    The auxiliary head is one with `num_convs=1, concat_input=False` (arXiv 1411.4038).

    Args:
      in_features: channels of the stage that the head reads.
      channels: width of its convolutions.
      num_classes: logits per pixel.
      num_convs: number of 3x3 convolutions before the one that reads the input again.
      concat_input: whether there is that one; the input comes first in the concatenation.
      dropout: probability that a whole channel is dropped before the classifier, in training.
      remat: what training computes twice to save memory, see models/remat.py.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        num_classes: int,
        *,
        num_convs: int = 2,
        concat_input: bool = True,
        dropout: float = 0.1,
        remat: str = "none",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.remat = "norms" if remat == "blocks" else remat  # there are no blocks in a head
        conv_norm = partial(ConvNorm, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
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
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: Features, valid: Valid | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "n h w classes"]:
        """Returns float32 logits; `rngs` is read by dropout, in training only."""
        y = self.transform(x, valid)
        if self.conv_cat is not None:
            y = self._apply(self.conv_cat, (x, y), valid)
        y = self.dropout(y, rngs=rngs)
        return float32_or_wider(self.classifier(y))

    def transform(self, x: Features, valid: Valid | None) -> Features:
        """What happens between the head's input and `conv_cat`."""
        for conv_norm in self.convs:
            x = self._apply(conv_norm, (x,), valid)
        return x

    def _apply(
        self, conv_norm: ConvNorm, inputs: tuple[Features, ...], valid: Valid | None
    ) -> Features:
        return rematerialized(_apply_conv_norm, self.remat)(conv_norm, inputs, valid)


class NonLocalHead(FCNHead):
    """The FCN head with a non-local block between its two convolutions (arXiv 1711.07971)."""

    def __init__(
        self,
        in_features: int,
        channels: int,
        num_classes: int,
        *,
        mode: str = "embedded_gaussian",
        reduction: int = 2,
        use_scale: bool = True,
        sub_sample: bool = False,
        implementation: str = "auto",
        concat_input: bool = True,
        dropout: float = 0.1,
        remat: str = "none",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            channels,
            num_classes,
            num_convs=2,
            concat_input=concat_input,
            dropout=dropout,
            remat=remat,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.non_local = NonLocal2d(
            channels,
            mode=mode,
            reduction=reduction,
            use_scale=use_scale,
            sub_sample=sub_sample,
            norm=True,
            implementation=implementation,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def transform(self, x: Features, valid: Valid | None) -> Features:
        """Convolution, non-local block, convolution."""
        before, after = self.convs
        x = self.non_local(self._apply(before, (x,), valid), valid)
        return self._apply(after, (x,), valid)

    def attention_map(
        self, x: Features, position: Position, valid: Valid | None = None
    ) -> Float[Array, "n h w"]:
        """How much the pixel at `position` (row, column) draws from every other one."""
        return self.non_local.attention_map(self.convs[0](x, valid=valid), position, valid)


def _apply_conv_norm(
    conv_norm: ConvNorm, inputs: tuple[Features, ...], valid: Valid | None
) -> Features:
    """The convolution of `inputs` side by side."""
    return conv_norm(*inputs, valid=valid)
