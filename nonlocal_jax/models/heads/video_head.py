"""The base class of video heads: from a feature map to the logits of a clip.

A module of the table config.tables.HEADS has `Options`, a subclass of schema.HeadOptions, and
`build(options, features, num_classes, numerics) -> VideoHead`.
"""

import abc

from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.models.caffe2_keys import Row

Features = Float[Array, "n t h w c"]
Logits = Float[Array, "n classes"]


class VideoHead(nnx.Module):
    """From the feature map of a backbone to class logits."""

    @property
    def caffe2_keys(self) -> tuple[Row, ...]:
        """The names of the layers in Caffe2 files; () if there is no Caffe2 counterpart."""
        return ()

    @abc.abstractmethod
    def __call__(self, features: Features, *, rngs: nnx.Rngs | None = None) -> Logits:
        """Logits of each clip, float32 or wider; dropout reads `rngs` in training."""

    @abc.abstractmethod
    def probabilities(self, features: Features) -> Logits:
        """Probabilities of each clip, averaged over the positions of frames of any size."""
