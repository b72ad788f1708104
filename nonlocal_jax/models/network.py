"""Builds the network of a config, and names its variables."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nonlocal_jax.config import schema, tables
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.backbone import Backbone
from nonlocal_jax.models.functional import Functional, initialised
from nonlocal_jax.models.heads.head import Head
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.segmentor import Segmentor
from nonlocal_jax.models.torch_keys import TorchKeys


def build_segmentor(model: schema.Model, rngs: nnx.Rngs) -> Segmentor:
    """The network of a config's `model` section, freshly initialised."""
    model = for_platform(model, jax.default_backend())
    numerics = Numerics(
        dtype=jnp.dtype(model.dtype),
        param_dtype=jnp.dtype(model.param_dtype),
        remat=model.remat,
        rngs=rngs,
        align_corners=model.align_corners,
    )
    backbone = build_backbone(model.backbone, numerics)

    def build_head(key: str, options: schema.HeadOptions) -> Head:
        module = tables.find_for("segmentation", "heads", options.name, f"model.{key}.name")
        head: Head = module.build(options, backbone.stages, model.num_classes, numerics)
        return head

    decode, auxiliary = model.decode_head, model.auxiliary_head
    return Segmentor(
        backbone,
        build_head("decode_head", decode),
        build_head("auxiliary_head", auxiliary) if auxiliary.loss_weight > 0 else None,
        loss_weights=(decode.loss_weight, auxiliary.loss_weight),
    )


def build_backbone(options: schema.BackboneOptions, numerics: Numerics) -> Backbone:
    """The backbone of a config's `model` section, freshly initialised."""
    module = tables.find_for("segmentation", "backbones", options.name, "model.backbone.name")
    backbone: Backbone = module.build(options, numerics)
    return backbone


class Network(Functional[Segmentor]):
    """A segmentor without its arrays."""

    @property
    def output_stride(self) -> int:
        """Image pixels per pixel of the logits, whose size is rounded up."""
        return self.abstract.output_stride

    @property
    def has_attention(self) -> bool:
        """Whether the decode head tells what it attends to."""
        return self.abstract.has_attention

    @property
    def has_attention_factors(self) -> bool:
        """Whether its attention is computed from queries and keys: models/attention_factors.py."""
        return self.abstract.has_attention_factors

    @property
    def torch_keys(self) -> TorchKeys:
        """Which tensor of a PyTorch file is which variable."""
        return self.abstract.torch_keys


def for_platform(model: schema.Model, platform: str) -> schema.Model:
    """A `model` section with its "auto" values decided for a kind of device.

    Accelerators compute in bfloat16, with float32 parameters, norms, softmax, logits and loss. A
    CPU gains nothing from bfloat16 and computes in float32. TPUs compute norms again in the
    backward pass, which saves memory. GPUs don't, since that takes more time: if memory does not
    suffice, choose "norms" or "blocks". Heads replace their own "auto" values.

    Raises:
      UserError: the dtype is float64, and JAX is not set up for it.
    """
    dtype, remat = dtype_and_remat(model.dtype, model.remat, platform)
    return dataclasses.replace(
        model,
        dtype=dtype,
        remat=remat,
        decode_head=model.decode_head.for_platform(platform, dtype),
        auxiliary_head=model.auxiliary_head.for_platform(platform, dtype),
    )


def dtype_and_remat(dtype: str, remat: str, platform: str) -> tuple[Any, Any]:
    """The settings `model.dtype` and `model.remat` with "auto" decided; see `for_platform`."""
    if dtype == "float64" and not jax.config.values["jax_enable_x64"]:
        raise UserError("config.model.dtype is float64: set the environment's JAX_ENABLE_X64=1.")
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    if remat == "auto":
        remat = "norms" if platform == "tpu" else "none"
    return dtype, remat


def without_auxiliary_head(model: schema.Model) -> schema.Model:
    """A `model` section whose network has no auxiliary head, which only training sees."""
    head = dataclasses.replace(model.auxiliary_head, loss_weight=0.0)
    return dataclasses.replace(model, auxiliary_head=head)


def build_network(model: schema.Model, *, platform: str | None = None) -> Network:
    """The network of a config's `model` section, without allocating anything.

    `platform` is that of the devices it will run on, by default those of this process.
    """
    model = for_platform(model, platform or jax.default_backend())
    return Network(*nnx.split(nnx.eval_shape(lambda: build_segmentor(model, nnx.Rngs(0)))))


def init_variables(model: schema.Model, seed: int) -> dict[str, jax.Array]:
    """Freshly initialised variables of a config's `model` section, by name."""
    return initialised(lambda rngs: build_segmentor(model, rngs), seed)
