"""The base class of video backbones: from clips to a feature map.

A module of the table config.tables.BACKBONES has `Options`, a subclass of schema.BackboneOptions,
and `build(options, numerics) -> VideoBackbone`.
"""

import abc
from collections.abc import Callable, Iterator, Mapping

from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.models.caffe2_keys import Row
from nonlocal_jax.models.non_local import NonLocal

Clips = Float[Array, "n t h w 3"]
FeatureMap = Float[Array, "n t_out h_out w_out o"]
Layer = Callable[[Float[Array, "n t h w i"]], FeatureMap]


class VideoBackbone(nnx.Module):
    """A network that returns one feature map of normalised clips.

    Attributes:
      features: its channels.
    """

    features: int

    @property
    def caffe2_keys(self) -> tuple[Row, ...]:
        """The names of the layers in Caffe2 files; () if there is no Caffe2 counterpart."""
        return ()

    @property
    def attention_blocks(self) -> Mapping[str, NonLocal]:
        """Blocks that tell what they attend to, by the name that they have in `layers`."""
        return {}

    @abc.abstractmethod
    def layers(self) -> Iterator[tuple[str, Layer]]:
        """The layers in order, with names: one is applied to the result of the other."""

    def __call__(self, clips: Clips) -> FeatureMap:
        """The result of all layers."""
        return self.before("", clips)

    def before(self, name: str, clips: Clips) -> FeatureMap:
        """What the layer `name` is given; the result of all layers if none has that name."""
        x: FeatureMap = clips
        for title, layer in self.layers():
            if title == name:
                break
            x = layer(x)
        return x
