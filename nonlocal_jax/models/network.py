"""Builds the network of a config, and names its variables."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nonlocal_jax.config import schema, tables
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.backbone import Backbone
from nonlocal_jax.models.heads.head import Head
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.segmentor import Segmentor
from nonlocal_jax.models.torch_keys import TorchKeys

Variables = Mapping[str, jax.Array | np.ndarray]


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
        module = tables.find("heads", options.name, f"model.{key}.name")
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
    module = tables.find("backbones", options.name, "model.backbone.name")
    backbone: Backbone = module.build(options, numerics)
    return backbone


@dataclasses.dataclass(frozen=True)
class Network:
    """A segmentor without its arrays, which live in a plain dict by name.

    Optimiser, checkpoints, sharding and conversion work on such dicts:
    {"backbone/stem/0/conv/kernel": array, ...}.
    """

    graph: nnx.GraphDef[Segmentor]
    state: nnx.State[Any, Any]

    def bind(self, variables: Variables) -> Segmentor:
        """The segmentor that holds `variables`; also inside a jitted function."""
        leaves = [
            (path, leaf.replace(variables[_name(path)]))
            for path, leaf in nnx.to_flat_state(self.state)
        ]
        model: Segmentor = nnx.merge(self.graph, nnx.from_flat_state(leaves))
        return model

    def bind_for_inference(self, variables: Variables) -> Segmentor:
        """The same with batch norm's running statistics, and without dropout.

        Rematerialisation and loops over blocks are switched off, too. They update modules, which is
        not allowed inside a loop over windows or mirrored images.
        """
        model = self.bind(variables)
        model.eval(remat="none", scan_blocks=False)  # type: ignore[no-untyped-call]
        return model

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every variable."""
        return {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(self.state)}

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that training changes: neither frozen ones nor statistics."""
        leaves = nnx.to_flat_state(self.state)
        return frozenset(_name(path) for path, leaf in leaves if isinstance(leaf, nnx.Param))

    @property
    def output_stride(self) -> int:
        """Image pixels per pixel of the logits, whose size is rounded up."""
        return self._abstract.output_stride

    @property
    def has_attention(self) -> bool:
        """Whether the decode head tells what it attends to."""
        return self._abstract.has_attention

    @property
    def torch_keys(self) -> TorchKeys:
        """Which tensor of a PyTorch file is which variable."""
        return self._abstract.torch_keys

    @property
    def _abstract(self) -> Segmentor:
        model: Segmentor = nnx.merge(self.graph, self.state)
        return model


def for_platform(model: schema.Model, platform: str) -> schema.Model:
    """A `model` section with its "auto" values decided for a kind of device.

    Accelerators compute in bfloat16, with float32 parameters, norms, softmax, logits and loss. A
    CPU gains nothing from bfloat16 and computes in float32. TPUs compute norms again in the
    backward pass, which saves memory. GPUs don't, since that takes more time: if memory does not
    suffice, choose "norms" or "blocks". Heads replace their own "auto" values.

    Raises:
      UserError: the dtype is float64, and JAX is not set up for it.
    """
    if model.dtype == "float64" and not jax.config.values["jax_enable_x64"]:
        raise UserError("config.model.dtype is float64: set the environment's JAX_ENABLE_X64=1.")
    cpu = platform == "cpu"
    dtype = ("float32" if cpu else "bfloat16") if model.dtype == "auto" else model.dtype
    remat = ("norms" if platform == "tpu" else "none") if model.remat == "auto" else model.remat
    return dataclasses.replace(
        model,
        dtype=dtype,
        remat=remat,
        decode_head=model.decode_head.for_platform(platform, dtype),
        auxiliary_head=model.auxiliary_head.for_platform(platform, dtype),
    )


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
    # "rbg" compiles several times faster than JAX's default generator, unrolled for every shape.
    key = jax.random.key(seed, impl="rbg")
    initialise = jax.jit(lambda key: flat_variables(build_segmentor(model, nnx.Rngs(key))))
    variables: dict[str, jax.Array] = initialise(key)
    return variables


def flat_variables(module: nnx.Module) -> dict[str, Any]:
    """Every parameter and statistic of `module` by name; of an abstract module, their shapes."""
    leaves = nnx.to_flat_state(nnx.state(module))
    return {_name(path): leaf.get_value() for path, leaf in leaves}


def _name(path: tuple[object, ...]) -> str:
    return "/".join(str(part) for part in path)
