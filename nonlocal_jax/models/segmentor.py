"""The whole network: backbone, decode head, and the auxiliary head that only training sees."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.heads import FCNHead, NonLocalHead, Position
from nonlocal_jax.models.resnet import ResNet
from nonlocal_jax.ops.padding import Valid

Images = Float[Array, "n h w 3"]
Logits = Float[Array, "n h' w' classes"]


class TrainingLogits(NamedTuple):
    """Logits of both heads, each at its stage's resolution."""

    decode: Logits
    auxiliary: Logits | None


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

    def attention_map(self, images: Images, position: Position) -> Float[Array, "n h' w'"]:
        """What the non-local block attends to at `position` (row, column) of its feature map.

        Raises:
          UserError: the decode head has no such block.
        """
        if not isinstance(self.decode_head, NonLocalHead):
            raise UserError("Only a network with config.model.decode_head.name 'nonlocal' attends.")
        return self.decode_head.attention_map(self.backbone(images)["stage4"], position)


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
