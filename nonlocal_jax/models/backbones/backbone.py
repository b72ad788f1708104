"""The base class of backbones: from images to feature maps, one for each stage.

A module of the table config.tables.BACKBONES has `Options`, a subclass of schema.BackboneOptions,
and `build(options, numerics) -> Backbone`.
"""

import abc
from collections.abc import Mapping
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from nonlocal_jax.models.torch_keys import TorchKeys
from nonlocal_jax.ops.padding import Valid

Images = Float[Array, "n h w 3"]
Features = Float[Array, "n h w c"]
FeatureMaps = dict[str, Float[Array, "n _ _ _"]]


class Stage(NamedTuple):
    """The shape of a stage's feature map.

    Attributes:
      features: number of channels.
      stride: image pixels per pixel. An image of height h has ceil(h / stride) rows.
    """

    features: int
    stride: int


class Backbone(nnx.Module):
    """A network that returns feature maps."""

    @property
    @abc.abstractmethod
    def stages(self) -> Mapping[str, Stage]:
        """Channels and stride of each feature map, by name."""

    @property
    def torch_keys(self) -> TorchKeys:
        """The names of the layers in PyTorch files; none if there is no PyTorch counterpart."""
        return TorchKeys(())

    @abc.abstractmethod
    def __call__(self, images: Images, valid: Valid | None = None) -> FeatureMaps:
        """The feature maps of normalised images.

        `valid` is the size (height, width) of each image in a padded batch. A feature map is zero
        outside its image, and does not depend on the padding.
        """
