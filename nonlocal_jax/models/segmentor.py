"""The whole network: backbone, decode head, and the auxiliary head that only training sees."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.resnet import ResNet
from nonlocal_jax.models.heads.heads import FCNHead, NonLocalHead
from nonlocal_jax.ops.padding import Valid

Images = Float[Array, "n h w 3"]
Logits = Float[Array, "n h' w' classes"]


class TrainingLogits(NamedTuple):
    """Logits of both heads, each at its stage's resolution."""

    decode: Logits
    auxiliary: Logits | None


class AttentionMap(NamedTuple):
    """How much a place in each image draws from every other one.

    Attributes:
      weights: over the feature map of the padded images.
      sizes: height and width of each image's own part of it.
    """

    weights: Float[Array, "n h' w'"]
    sizes: Int[Array, "n 2"]


class Segmentor(nnx.Module):
    """A backbone whose last stage is decoded, and whose third stage has a loss of its own.

    `.train()` and `.eval()` switch batch norm and dropout.
    """

    def __init__(self, backbone: ResNet, decode_head: FCNHead, auxiliary_head: FCNHead | None):
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head

    def __call__(self, images: Images, valid: Valid | None = None) -> Logits:
        """Decode logits at the output stride, float32, for normalised images.

        `valid` is the size (height, width) of each image in a padded batch.
        """
        stage4 = self.backbone(images, valid)["stage4"]
        return self.decode_head(stage4, valid_at(valid, images, stage4))

    def training_logits(self, images: Images, *, rngs: nnx.Rngs | None = None) -> TrainingLogits:
        """Logits of both heads; `rngs` is read by their dropouts."""
        stages = self.backbone(images)
        decode = self.decode_head(stages["stage4"], rngs=rngs)
        if self.auxiliary_head is None:
            return TrainingLogits(decode, None)
        return TrainingLogits(decode, self.auxiliary_head(stages["stage3"], rngs=rngs))

    def attention_map(
        self, images: Images, relative: Float[Array, "n 2"], valid: Valid | None = None
    ) -> AttentionMap:
        """What the non-local block attends to at a place in each normalised image.

        Args:
          images: see `__call__`, as for `valid`.
          relative: how far down and to the right the place is, as shares of the image's own size.
          valid: the size of each image in a padded batch.

        Raises:
          UserError: the decode head has no such block.
        """
        if not isinstance(self.decode_head, NonLocalHead):
            raise UserError("This network has no non-local block (config.model.decode_head.name).")
        stage4 = self.backbone(images, valid)["stage4"]
        inner = valid_at(valid, images, stage4)
        sizes = jnp.broadcast_to(jnp.array(stage4.shape[1:3]), relative.shape)
        sizes = sizes if inner is None else inner
        row, column = jnp.floor(relative * sizes.astype(jnp.float32)).astype(jnp.int32).T
        weights = self.decode_head.attention_map(stage4, (row, column), inner)
        return AttentionMap(weights, sizes // 2 if self.decode_head.non_local.sub_sample else sizes)


def valid_at(
    valid: Valid | None, images: Images, features: Float[Array, "n h w c"]
) -> Valid | None:
    """`valid` at the resolution of `features`: halved, rounding up, at every stride."""
    if valid is None:
        return None
    shape, valid = images.shape[1:3], jnp.asarray(valid)
    while shape != features.shape[1:3]:  # both axes: one that is a single pixel stays one
        shape, valid = tuple((length + 1) // 2 for length in shape), (valid + 1) // 2
    return valid
