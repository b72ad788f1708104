"""Builds the video network of a config; the counterpart of network.py."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from nonlocal_jax.config import tables
from nonlocal_jax.config.video import VideoModel
from nonlocal_jax.models.backbones.video_backbone import VideoBackbone
from nonlocal_jax.models.caffe2_keys import Row
from nonlocal_jax.models.functional import Functional, initialised
from nonlocal_jax.models.heads.video_head import VideoHead
from nonlocal_jax.models.network import dtype_and_remat
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.recognizer import Recognizer


class VideoNetwork(Functional[Recognizer]):
    """A recognizer without its arrays."""

    @property
    def attention_blocks(self) -> tuple[str, ...]:
        """Names of the blocks whose attention can be shown, in the order of the network."""
        return self.abstract.attention_blocks

    @property
    def caffe2_keys(self) -> tuple[Row, ...]:
        """Which blobs of a Caffe2 file are which variables."""
        return self.abstract.caffe2_keys


def build_recognizer(model: VideoModel, rngs: nnx.Rngs) -> Recognizer:
    """The network of a config's `model` section, freshly initialised.

    Raises:
      UserError: its backbone or its head is one of images.
    """
    model = for_platform(model, jax.default_backend())
    numerics = Numerics(
        dtype=jnp.dtype(model.dtype),
        param_dtype=jnp.dtype(model.param_dtype),
        remat=model.remat,
        rngs=rngs,
    )
    module = tables.find_for("video", "backbones", model.backbone.name, "model.backbone.name")
    backbone: VideoBackbone = module.build(model.backbone, numerics)
    module = tables.find_for("video", "heads", model.head.name, "model.head.name")
    head: VideoHead = module.build(model.head, backbone.features, model.num_classes, numerics)
    return Recognizer(backbone, head)


def for_platform(model: VideoModel, platform: str) -> VideoModel:
    """A `model` section with its "auto" values decided, as network.py's `for_platform` does.

    Raises:
      UserError: the dtype is float64, and JAX is not set up for it.
    """
    dtype, remat = dtype_and_remat(model.dtype, model.remat, platform)
    return dataclasses.replace(
        model,
        dtype=dtype,
        remat=remat,
        backbone=model.backbone.for_platform(platform, dtype),
        head=model.head.for_platform(platform, dtype),
    )


def build_network(model: VideoModel, *, platform: str | None = None) -> VideoNetwork:
    """The network of a config's `model` section, without allocating anything.

    `platform` is that of the devices it will run on, by default those of this process.
    """
    model = for_platform(model, platform or jax.default_backend())
    return VideoNetwork(*nnx.split(nnx.eval_shape(lambda: build_recognizer(model, nnx.Rngs(0)))))


def init_variables(model: VideoModel, seed: int) -> dict[str, jax.Array]:
    """Freshly initialised variables of a config's `model` section, by name."""
    return initialised(lambda rngs: build_recognizer(model, rngs), seed)
