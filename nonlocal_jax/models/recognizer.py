"""A whole video network: backbone and head."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Real

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.attention_factors import AttentionFactors
from nonlocal_jax.models.backbones.video_backbone import VideoBackbone
from nonlocal_jax.models.caffe2_keys import Row, under
from nonlocal_jax.models.heads.video_head import Logits, VideoHead
from nonlocal_jax.models.non_local import NonLocal

Clips = Real[Array, "n t h w 3"]
Weights = Float[Array, "n frames rows columns"]


class Recognizer(nnx.Module):
    """A backbone and a head. `.train()` and `.eval()` switch batch norm and dropout.

    Args:
      backbone: from clips to a feature map.
      head: from the feature map to the logits of a clip.
    """

    def __init__(self, backbone: VideoBackbone, head: VideoHead):
        self.backbone = backbone
        self.head = head

    @property
    def caffe2_keys(self) -> tuple[Row, ...]:
        """Which blobs of a Caffe2 file are which variables."""
        return (
            *under("backbone", "", self.backbone.caffe2_keys),
            *under("head", "", self.head.caffe2_keys),
        )

    @property
    def attention_blocks(self) -> tuple[str, ...]:
        """Names of the blocks that `attention_map` knows, in the order of the network."""
        return tuple(self.backbone.attention_blocks)

    def __call__(self, clips: Clips, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Logits in float32 or wider, for normalised clips; dropout reads `rngs`.

        Raises:
          UserError: the clips are integers.
        """
        return self.head(self.backbone(_normalised(clips)), rngs=rngs)

    def fully_convolutional(self, clips: Clips) -> Logits:
        """Probabilities of each class, averaged over positions, for crops larger than in training.

        Raises:
          UserError: the clips are integers.
        """
        return self.head.probabilities(self.backbone(_normalised(clips)))

    def attention_map(
        self, clips: Clips, relative: Float[Array, "n 3"], block: str = ""
    ) -> Weights:
        """What a non-local block attends to at one position of each normalised clip.

        Args:
          clips: see `__call__`.
          relative: frame, row and column of the position, as shares of the size of a clip.
          block: one of `attention_blocks`; by default the last.

        Returns:
          Weights over the keys of the block, which is in its feature map's frames, and in half its
          rows and columns if keys are pooled. They sum to one in the Gaussian modes.

        Raises:
          UserError: the network has no such block.
        """
        found, x = self._before(block, clips)
        sizes = jnp.array(x.shape[1:4])
        frame, row, column = jnp.floor(relative * sizes.astype(jnp.float32)).astype(jnp.int32).T
        weights: Weights = found.attention_map(x, (frame, row, column))
        return weights

    def attention_factors(self, clips: Clips, block: str = "") -> AttentionFactors:
        """The queries and keys that a block's `attention_map` is computed from.

        Args:
          clips: see `__call__`.
          block: see `attention_map`.

        Raises:
          UserError: the network has no such block, or it attends inside of groups of frames.
        """
        found, x = self._before(block, clips)
        return found.attention_factors(x)

    def _before(self, block: str, clips: Clips) -> tuple[NonLocal, Float[Array, "n _ _ _ c"]]:
        """A block by name, by default the last, and what it is given."""
        blocks = self.backbone.attention_blocks
        if not blocks:
            raise UserError("This network has no non-local blocks (config.model.backbone).")
        name = block or self.attention_blocks[-1]
        if name not in blocks:
            raise UserError(f"The network has no block {name!r}; it has {', '.join(blocks)}.")
        return blocks[name], self.backbone.before(name, _normalised(clips))


def _normalised(clips: Clips) -> Clips:
    if not jnp.issubdtype(clips.dtype, jnp.floating):
        raise UserError(
            f"A network takes normalised clips, not {clips.dtype}: see ops/normalize.py."
        )
    return clips
