"""The base class of heads: from some stages of a backbone to class logits.

A module of the table config.tables.HEADS has `Options`, a subclass of schema.HeadOptions, and
`build(options, stages, num_classes, numerics) -> Head`.
"""

import abc
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.attention_factors import ImageFactors
from nonlocal_jax.models.layers import ConvNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.remat import rematerialized
from nonlocal_jax.models.torch_keys import Row
from nonlocal_jax.ops.padding import Valid

StageName = Literal["stage1", "stage2", "stage3", "stage4"]
Features = Float[Array, "n h w c"]
Inputs = tuple[Float[Array, "n _ _ _"], ...]
Sizes = tuple[Valid, ...] | None
Logits = Float[Array, "n _ _ classes"]
Position = tuple[Int[Array, "n"], Int[Array, "n"]]


@dataclass(frozen=True, kw_only=True)
class StageOptions(schema.HeadOptions):
    """Settings of heads that read one stage."""

    stage: StageName = "stage4"
    """The stage of the backbone that the head reads."""
    channels: schema.Count = 512
    """Width of its convolutions."""
    dropout: schema.DropRate = 0.1
    """Probability that training drops a whole channel before the classifier."""


class Weighted(NamedTuple):
    """Logits with a loss in training, and the factor of that loss."""

    weight: float
    logits: Logits


class AttentionMap(NamedTuple):
    """How much one position of each image attends to every other position.

    Attributes:
      weights: over the positions of the padded feature map.
      sizes: height and width of each image in it.
    """

    weights: Float[Array, "n h w"]
    sizes: Int[Array, "n 2"]


class Head(nnx.Module):
    """From feature maps to class logits, at the resolution of the last feature map.

    Attributes:
      reads: names of the stages whose feature maps `__call__` gets, in that order.
      remat: what the backward pass of `apply` computes again.
    """

    reads: tuple[str, ...]
    remat = "none"

    @property
    def torch_keys(self) -> tuple[Row, ...]:
        """The names of this head's layers in PyTorch files; () if it has no PyTorch counterpart."""
        return ()

    @abc.abstractmethod
    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """Logits in float32 or wider.

        Args:
          features: one map for each name of `reads`.
          valid: the size (height, width) of each image in each of them, in a padded batch.
          rngs: for dropout, in training only.
        """

    def training_logits(
        self, features: Inputs, *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Weighted]:
        """All logits that have a loss, by name. The name of the logits of `__call__` is empty."""
        return {"": Weighted(1.0, self(features, rngs=rngs))}

    def apply(self, layer: ConvNorm, inputs: Inputs, valid: Valid | None) -> Features:
        """`layer` of the `inputs` side by side, rematerialised as `remat` says."""
        y: Features = rematerialized(_apply, self.remat)(layer, inputs, valid)
        return y

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """What the head attends to at one position of each image.

        Args:
          features: see `__call__`, as for `valid`.
          relative: row and column of the position, as shares of the size of its image.
          valid: the size of each image in each feature map, in a padded batch.

        Raises:
          UserError: the head has no attention.
        """
        raise UserError("This network's head has no attention map (config.model.decode_head.name).")

    def attention_factors(self, features: Inputs, valid: Sizes = None) -> ImageFactors:
        """The queries and keys that `attention_map` is computed from.

        Args:
          features: see `__call__`, as for `valid`.
          valid: the size of each image in each feature map, in a padded batch.

        Raises:
          UserError: the head's attention is not of this form.
        """
        raise UserError(
            "The attention of this network's head (config.model.decode_head.name) is not one "
            "product of queries and keys."
        )


def remat_of_heads(numerics: Numerics) -> str:
    """The setting for a head: it has no residual blocks, so "blocks" means "norms" there."""
    return "norms" if numerics.remat == "blocks" else numerics.remat


def _apply(layer: ConvNorm, inputs: Inputs, valid: Valid | None) -> Features:
    return layer(*inputs, valid=valid)


def own_sizes(features: Features, valid: Valid | None) -> Int[Array, "n 2"]:
    """Height and width of each image in a feature map: `valid`, or all of the map without it."""
    if valid is not None:
        return jnp.asarray(valid)
    return jnp.broadcast_to(jnp.array(features.shape[1:3]), (features.shape[0], 2))


def position_at(relative: Float[Array, "n 2"], sizes: Int[Array, "n 2"]) -> Position:
    """Row and column of a relative position in images of these sizes."""
    row, column = jnp.floor(relative * sizes.astype(jnp.float32)).astype(jnp.int32).T
    return row, column
