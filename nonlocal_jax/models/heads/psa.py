"""The head of point-wise spatial attention (Zhao, Zhang, Liu, Shi, Loy, Lin, Jia, ECCV 2018).

Two branches let each position gather features v_s from all others (section 3):

    collect      z_t = sum_s a_ts v_s,   a_t from the features of t
    distribute   z_t = sum_s a_ts v_s,   a_s from the features of s

A position predicts one number for each offset that a mask reaches, which softmax over s turns into
weights; see ops/attention/point_wise.py. Both work on a map that is shrunk by a factor.

As the published networks do it: if neither height nor width is a multiple of the factor, the shrunk
size is rounded up, and corners are aligned; otherwise it is rounded down, and they are not. The 1x1
convolution of both results pads by 1, and resizing takes the frame of constants for a part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
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
from nonlocal_jax.models.layers import NORMAL_001, UNIFORM_FAN_IN, Conv, ConvNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import Row, conv_norm
from nonlocal_jax.ops.attention.point_wise import (
    Direction,
    point_wise_attention,
    weights_of_rows,
)
from nonlocal_jax.ops.dims import Dim, known, larger
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.ops.padding import Valid, valid_mask, zero_outside
from nonlocal_jax.ops.resize import resize_each

Map = Float[Array, "n _ _ _"]
BRANCHES: dict[str, tuple[Direction, ...]] = {
    "both": ("collect", "distribute"),
    "collect": ("collect",),
    "distribute": ("distribute",),
}


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions):
    """Settings of the head."""

    name: str = "psa"
    branches: Literal["both", "collect", "distribute"] = "both"
    """Which branches there are."""
    mask_size: schema.Size = (97, 97)
    """Rows and columns of the mask. One of 2 h - 1 and 2 w - 1 reaches every position of a shrunk
    map of h x w."""
    compact: bool = False
    """Whether the mask has a place for each position of the shrunk map, which it may not be smaller
    than, in place of one for each offset. With a single branch, MMSegmentation calls this form of
    collect "distribute", and the other way round."""
    shrink_factor: schema.Count = 2
    """The attention works on a map that is so much smaller."""
    softmax: bool = True
    """Whether the weights are softmaxes of what is predicted, or that itself."""
    normalization_factor: schema.Positive = 1.0
    """What both results are divided by. Without a softmax, the size of the mask is usual."""


def build(
    options: Options, stages: Mapping[str, Stage], num_classes: int, numerics: Numerics
) -> Head:
    """The head on top of a backbone's stages."""
    return PSAHead(options, stages[options.stage].features, num_classes, numerics)


class Form(TypedDict):
    """Keywords of the attention."""

    direction: Direction
    compact: bool
    softmax: bool


class Shrinking(NamedTuple):
    """From sizes of images to sizes of their shrunk maps.

    Attributes:
      sizes: of the images in the feature map.
      small: of the images in the shrunk map.
      aligned: whether corners are aligned.
      space: height and width of the shrunk map.
    """

    sizes: Valid
    small: Valid
    aligned: Bool[Array, "n"]
    space: tuple[Dim, Dim]


class Branch(nnx.Module):
    """One of both branches: reduction, attention and sum.

    Args:
      direction: which one.
      features: channels of its input.
      options: widths, and the form of the attention.
      numerics: dtypes, memory and random numbers.
    """

    def __init__(self, direction: Direction, features: int, options: Options, numerics: Numerics):
        channels, (rows, columns) = options.channels, options.mask_size
        self.direction, self.mask_size = direction, options.mask_size
        self.compact, self.softmax = options.compact, options.softmax
        self.divisor = options.normalization_factor
        self.reduce = ConvNorm(features, channels, 1, **numerics.of_layers)
        self.hidden = ConvNorm(channels, channels, 1, **numerics.of_layers)
        self.mask = nnx.Linear(
            channels,
            rows * columns,
            use_bias=False,
            kernel_init=UNIFORM_FAN_IN,
            **numerics.of_layers,
        )

    def torch_keys(self, suffix: str) -> tuple[Row, ...]:
        """The names of the layers in PyTorch files."""
        return (
            *conv_norm("reduce", f"reduce{suffix}"),
            *conv_norm("hidden", f"attention{suffix}.0"),
            Row("mask", f"attention{suffix}.1", "linear"),
        )

    def __call__(self, x: Features, valid: Valid | None, shrinking: Shrinking) -> Map:
        """z of each position of the shrunk map."""
        if self.compact and not known(*x.shape[1:3]):
            raise UserError(
                "A compact mask (config.model.decode_head.compact) has a place for each position, "
                "so this network takes images of one size, and can't be exported for any."
            )
        v, h, inside = self._parts(x, valid, shrinking)
        z = point_wise_attention(h, v, self._mask(h), inside, divisor=self.divisor, **self._form())
        return zero_outside(z, shrinking.small)

    def weights(
        self,
        x: Features,
        valid: Valid | None,
        shrinking: Shrinking,
        position: tuple[Int[Array, "n"], Int[Array, "n"]],
    ) -> Float[Array, "n _ _"]:
        """a_ts of one position t of each image."""
        _, h, inside = self._parts(x, valid, shrinking)
        row, column = position
        of_rows = weights_of_rows(h, self._mask(h), inside, row, **self._form())
        return of_rows[jnp.arange(x.shape[0]), column]

    def _parts(
        self, x: Features, valid: Valid | None, shrinking: Shrinking
    ) -> tuple[Map, Map, Bool[Array, "n _ _ 1"]]:
        """v, h, and where they are inside of the images."""
        v = self.reduce(x, valid=valid)
        sizes, small, aligned, space = shrinking
        v = resize_each(v, sizes, small, space, align_corners=aligned)
        h = self.hidden(v, valid=None if valid is None else small)
        return v, h, valid_mask(small, space)

    def _mask(self, h: Features) -> Float[Array, "c rows columns"]:
        if self.compact and any(a > b for a, b in zip(h.shape[1:3], self.mask_size, strict=True)):
            raise UserError(
                f"A compact mask of {self.mask_size} has no place for each position of a shrunk "
                f"map of {h.shape[1:3]} (config.model.decode_head.mask_size)."
            )
        return self.mask.kernel[...].astype(h.dtype).reshape(-1, *self.mask_size)

    def _form(self) -> Form:
        return {"direction": self.direction, "compact": self.compact, "softmax": self.softmax}


class PSAHead(Head):
    """Both branches, a 1x1 convolution, a 3x3 convolution that also reads the input, classifier."""

    def __init__(self, options: Options, features: int, num_classes: int, numerics: Numerics):
        self.reads = (options.stage,)
        self.remat = remat_of_heads(numerics)
        self.factor, self.align_corners = options.shrink_factor, numerics.align_corners
        width = options.channels
        directions = BRANCHES[options.branches]
        self.branches = nnx.List([Branch(d, features, options, numerics) for d in directions])
        self.project = ConvNorm(width * len(directions), features, 1, **numerics.of_layers)
        self.bottleneck = ConvNorm(2 * features, width, 3, **numerics.of_layers)
        self.dropout = nnx.Dropout(options.dropout, broadcast_dims=(1, 2))
        self.classifier = Conv(
            width, num_classes, 1, use_bias=True, kernel_init=NORMAL_001, **numerics.of_layers
        )

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """See Head. The first branch has the plain names, whichever it is."""
        rows: list[Row] = []
        for i, (branch, suffix) in enumerate(zip(self.branches, ("", "_p"), strict=False)):
            for row in branch.torch_keys(suffix):
                rows.append(row._replace(ours=f"branches/{i}/{row.ours}"))
        return (
            *rows,
            *conv_norm("project", "proj"),
            *conv_norm("bottleneck", "bottleneck"),
            Row("classifier", "conv_seg", "conv"),
        )

    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """See Head."""
        (x,), (inner,) = features, valid or (None,)
        shrinking = self._shrinking(x, inner)
        z = [branch(x, inner, shrinking) for branch in self.branches]
        framed = [jnp.pad(part, ((0, 0), (1, 1), (1, 1), (0, 0))) for part in z]
        y = self.apply(self.project, tuple(framed), None)
        sizes, small, aligned, _ = shrinking
        y = resize_each(y, small + 2, sizes, x.shape[1:3], align_corners=aligned)
        y = self.apply(self.bottleneck, (x, y), inner)
        return float32_or_wider(self.classifier(self.dropout(y, rngs=rngs)))

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """See Head. It is a_ts of the position t in the shrunk map, the mean of the branches."""
        (x,), (inner,) = features, valid or (None,)
        shrinking = self._shrinking(x, inner)
        position = position_at(relative, shrinking.small)
        each = [branch.weights(x, inner, shrinking, position) for branch in self.branches]
        return AttentionMap(sum(each[1:], each[0]) / len(each), shrinking.small)

    def _shrinking(self, x: Features, valid: Valid | None) -> Shrinking:
        sizes, factor = own_sizes(x, valid), self.factor
        if factor == 1:
            return Shrinking(
                sizes, sizes, jnp.full(sizes.shape[0], self.align_corners), (x.shape[1], x.shape[2])
            )
        up = jnp.all(sizes % factor != 0, axis=-1)
        small = jnp.maximum(jnp.where(up[:, None], -(-sizes // factor), sizes // factor), 1)
        unsure = valid is not None or not known(*x.shape[1:3])
        rounds_up = unsure or all(size % factor for size in x.shape[1:3])
        height, width = (
            -(-size // factor) if rounds_up else size // factor for size in x.shape[1:3]
        )
        return Shrinking(sizes, small, up, (larger(height, 1), larger(width, 1)))
