"""The head of the video models: average pooling, dropout and a linear layer."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from nonlocal_jax.config import schema
from nonlocal_jax.models.caffe2_keys import Row
from nonlocal_jax.models.heads.video_head import Features, Logits, VideoHead
from nonlocal_jax.models.layers import NORMAL_001
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.ops.dtypes import float32_or_wider

CAFFE2_KEYS = (Row("classifier", "pred", "dense"),)


TASK = "video"


@dataclass(frozen=True, kw_only=True)
class Options(schema.HeadOptions):
    """Settings of the head."""

    name: str = "classification"
    dropout: schema.DropRate = 0.5
    """Probability that training drops a channel before the classifier."""
    window: schema.Count = 7
    """Height and width of the pooling window of fully convolutional testing: those of the feature
    map in training, the crop's size / 32."""


def build(options: Options, features: int, num_classes: int, numerics: Numerics) -> VideoHead:
    """The head on top of a feature map with so many channels."""
    return Classification(options, features, num_classes, numerics)


class Classification(VideoHead):
    """Logits of a clip from the average of its feature map."""

    def __init__(self, options: Options, features: int, num_classes: int, numerics: Numerics):
        self.window = options.window
        self.dropout = nnx.Dropout(options.dropout)
        self.classifier = nnx.Linear(
            features, num_classes, kernel_init=NORMAL_001, **numerics.of_layers
        )

    @property
    def caffe2_keys(self) -> tuple[Row, ...]:
        """See VideoHead."""
        return CAFFE2_KEYS

    def __call__(self, features: Features, *, rngs: nnx.Rngs | None = None) -> Logits:
        """See VideoHead. The average is over all positions."""
        average = jnp.mean(float32_or_wider(features), axis=(1, 2, 3)).astype(features.dtype)
        return float32_or_wider(self.classifier(self.dropout(average, rngs=rngs)))

    def probabilities(self, features: Features) -> Logits:
        """See VideoHead.

        The window of the average moves over the feature map, a pixel at a time. The probabilities
        of all its places are averaged. A map that is smaller than the window is averaged whole.
        """
        averages = self._moving_average(features).astype(features.dtype)
        each = jax.nn.softmax(float32_or_wider(self.classifier(averages)))
        return jnp.mean(each, axis=(1, 2))

    def _moving_average(self, features: Features) -> Float[Array, "n rows columns c"]:
        x = jnp.mean(float32_or_wider(features), axis=1)
        height, width = (min(self.window, size) for size in x.shape[1:3])
        zero = jnp.zeros((), x.dtype)
        sums: Array = lax.reduce_window(
            x, zero, lax.add, (1, height, width, 1), (1, 1, 1, 1), "VALID"
        )
        return sums / (height * width)
