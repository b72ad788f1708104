"""What every head is: from some stages of a backbone to class logits.

A module of the table config.tables.HEADS has `Options`, a subclass of schema.HeadOptions, and
`build(options, stages, num_classes, numerics) -> Head`.
"""

import abc
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.torch_keys import Row
from nonlocal_jax.ops.padding import Valid

StageName = Literal["stage1", "stage2", "stage3", "stage4"]
Features = Float[Array, "n h w c"]
Inputs = tuple[Float[Array, "n _ _ _"], ...]
Sizes = tuple[Valid, ...] | None
Logits = Float[Array, "n _ _ classes"]
Position = tuple[Int[Array, "n"], Int[Array, "n"]]


class Weighted(NamedTuple):
    """Logits that training has a loss for, and the factor of that loss."""

    weight: float
    logits: Logits


class AttentionMap(NamedTuple):
    """How much a place in each image draws from every other one.

    Attributes:
      weights: over the feature map of the padded images.
      sizes: height and width of each image's own part of it.
    """

    weights: Float[Array, "n h w"]
    sizes: Int[Array, "n 2"]


class Head(nnx.Module):
    """From feature maps to class logits at the resolution of the last of them.

    Attributes:
      reads: names of the stages whose feature maps a call is given, in that order.
    """

    reads: tuple[str, ...]

    @property
    @abc.abstractmethod
    def torch_keys(self) -> tuple[Row, ...]:
        """Which tensor of PyTorch's head is which variable of this one."""

    @abc.abstractmethod
    def __call__(
        self, features: Inputs, valid: Sizes = None, *, rngs: nnx.Rngs | None = None
    ) -> Logits:
        """Logits in float32 or wider.

        Args:
          features: one map for each name of `reads`.
          valid: the size (height, width) of each image in each of them, in a padded batch.
          rngs: read by dropout, in training only.
        """

    def training_logits(
        self, features: Inputs, *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Weighted]:
        """All logits that have a loss, by a name; the empty one is that of a call's."""
        return {"": Weighted(1.0, self(features, rngs=rngs))}

    def attention_map(
        self, features: Inputs, relative: Float[Array, "n 2"], valid: Sizes = None
    ) -> AttentionMap:
        """What the head attends to at a place in each image.

        Args:
          features: see `__call__`, as for `valid`.
          relative: how far down and to the right the place is, as shares of the image's own size.
          valid: the size of each image in each feature map, in a padded batch.

        Raises:
          UserError: the head has no attention.
        """
        raise UserError("This network's head has no attention map (config.model.decode_head.name).")


def own_sizes(features: Features, valid: Valid | None) -> Int[Array, "n 2"]:
    """Height and width of each image in a feature map; all of it unless `valid` says less."""
    if valid is not None:
        return jnp.asarray(valid)
    return jnp.broadcast_to(jnp.array(features.shape[1:3]), (features.shape[0], 2))


def position_at(relative: Float[Array, "n 2"], sizes: Int[Array, "n 2"]) -> Position:
    """Row and column of a place in each image that is `sizes` large."""
    row, column = jnp.floor(relative * sizes.astype(jnp.float32)).astype(jnp.int32).T
    return row, column
