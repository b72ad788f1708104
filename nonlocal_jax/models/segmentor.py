"""The whole network: backbone, decode head, and the auxiliary head of training."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.attention_factors import ImageFactors
from nonlocal_jax.models.backbones.backbone import Backbone, FeatureMaps, Images
from nonlocal_jax.models.heads.head import AttentionMap, Head, Inputs, Logits, Sizes
from nonlocal_jax.models.torch_keys import TorchKeys, under
from nonlocal_jax.ops.padding import Valid, at_stride


class Output(NamedTuple):
    """Logits with a loss in training.

    Attributes:
      logits: at the resolution of the head's last stage.
      weight: the factor of their loss.
    """

    logits: Logits
    weight: float


class Segmentor(nnx.Module):
    """A backbone and its heads. `.train()` and `.eval()` switch batch norm and dropout.

    Args:
      backbone: from images to feature maps.
      decode_head: from some of them to the logits that are evaluated.
      auxiliary_head: a head that is used in training only, or None.
      loss_weights: of the decode head and the auxiliary head.
    """

    def __init__(
        self,
        backbone: Backbone,
        decode_head: Head,
        auxiliary_head: Head | None = None,
        *,
        loss_weights: tuple[float, float] = (1.0, 0.4),
    ):
        self.backbone = backbone
        self.decode_head = decode_head
        self.auxiliary_head = auxiliary_head
        self.loss_weights = loss_weights

    @property
    def output_stride(self) -> int:
        """Image pixels per pixel of the decode head's logits, whose size is rounded up."""
        return self.backbone.stages[self.decode_head.reads[-1]].stride

    @property
    def has_attention(self) -> bool:
        """Whether `attention_map` tells something."""
        return type(self.decode_head).attention_map is not Head.attention_map

    @property
    def torch_keys(self) -> TorchKeys:
        """Which tensor of a PyTorch file is which variable."""
        backbone = self.backbone.torch_keys
        rows = under("backbone", "backbone", backbone.rows)
        rows += under("decode_head", "decode_head", self.decode_head.torch_keys)
        if self.auxiliary_head is not None:
            rows += under("auxiliary_head", "auxiliary_head", self.auxiliary_head.torch_keys)
        return TorchKeys(rows, backbone.describe, backbone.ignored)

    def __call__(self, images: Images, valid: Valid | None = None) -> Logits:
        """Decode logits at the output stride, float32 or wider, for normalised images.

        `valid` is the size (height, width) of each image in a padded batch.

        Raises:
          UserError: the images are integers.
        """
        stages = self._feature_maps(images, valid)
        return self.decode_head(*self._inputs(self.decode_head, stages, valid))

    def training_outputs(
        self, images: Images, *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Output]:
        """The outputs that have a loss, by name: "decode", and "auxiliary" if there is such a head.

        Further losses of a head are called "decode_NAME". Dropout reads `rngs`.
        """
        stages = self._feature_maps(images, None)
        heads = {"decode": self.decode_head, "auxiliary": self.auxiliary_head}
        outputs = {}
        for (title, head), factor in zip(heads.items(), self.loss_weights, strict=True):
            if head is None:
                continue
            features, _ = self._inputs(head, stages, None)
            for name, (weight, logits) in head.training_logits(features, rngs=rngs).items():
                outputs[f"{title}_{name}" if name else title] = Output(logits, factor * weight)
        return outputs

    def attention_map(
        self, images: Images, relative: Float[Array, "n 2"], valid: Valid | None = None
    ) -> AttentionMap:
        """What the decode head attends to at one position of each normalised image.

        Args:
          images: see `__call__`, as for `valid`.
          relative: row and column of the position, as shares of the size of its image.
          valid: the size of each image in a padded batch.

        Raises:
          UserError: the decode head has no attention.
        """
        stages = self._feature_maps(images, valid)
        features, inner = self._inputs(self.decode_head, stages, valid)
        return self.decode_head.attention_map(features, relative, inner)

    @property
    def has_attention_factors(self) -> bool:
        """Whether `attention_factors` tells something."""
        return type(self.decode_head).attention_factors is not Head.attention_factors

    def attention_factors(self, images: Images, valid: Valid | None = None) -> ImageFactors:
        """The queries and keys that the decode head's attention is computed from.

        Args:
          images: see `__call__`, as for `valid`.
          valid: the size of each image in a padded batch.

        Raises:
          UserError: the decode head's attention is not of this form.
        """
        stages = self._feature_maps(images, valid)
        return self.decode_head.attention_factors(*self._inputs(self.decode_head, stages, valid))

    def _feature_maps(self, images: Images, valid: Valid | None) -> FeatureMaps:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"A network takes normalised images, not {images.dtype}: see ops/normalize.py."
            )
        return self.backbone(images, valid)

    def _inputs(self, head: Head, stages: FeatureMaps, valid: Valid | None) -> tuple[Inputs, Sizes]:
        """The feature maps that a head reads, and the size of each image in them."""
        features = tuple(stages[name] for name in head.reads)
        if valid is None:
            return features, None
        strides = (self.backbone.stages[name].stride for name in head.reads)
        return features, tuple(at_stride(valid, stride) for stride in strides)
