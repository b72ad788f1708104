"""From the `model` section of a config to a network, and to the names of everything in it."""

import dataclasses
from collections.abc import Mapping
from typing import get_args

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.heads import FCNHead, NonLocalHead
from nonlocal_jax.models.non_local import Mode
from nonlocal_jax.models.remat import Remat
from nonlocal_jax.models.resnet import BLOCKS_PER_STAGE, STRIDES, ResNet
from nonlocal_jax.models.segmentor import Segmentor
from nonlocal_jax.ops.attention import Implementation


def build_segmentor(config: ConfigDict, rngs: nnx.Rngs) -> Segmentor:
    """The network of `config` (a config's `model` section), freshly initialised.

    Raises:
      UserError: a value that no network can be built from.
    """
    check(config)
    config = for_platform(config, jax.default_backend())
    numerics = {
        "dtype": jnp.dtype(config.dtype),
        "param_dtype": jnp.dtype(config.param_dtype),
        "remat": config.remat,
        "rngs": rngs,
    }
    backbone = ResNet(**config.backbone, **numerics)
    _, _, stage3, stage4 = backbone.features
    options = config.decode_head.copy_and_resolve_references().to_dict()
    name = options.pop("name")
    if name == "fcn":
        options = {k: options[k] for k in ("channels", "num_convs", "concat_input", "dropout")}
        decode_head = FCNHead(stage4, num_classes=config.num_classes, **options, **numerics)
    else:
        del options["num_convs"]
        decode_head = NonLocalHead(stage4, num_classes=config.num_classes, **options, **numerics)
    auxiliary_head = None
    if config.auxiliary_head.loss_weight > 0:
        auxiliary_head = FCNHead(
            stage3,
            config.auxiliary_head.channels,
            config.num_classes,
            num_convs=config.auxiliary_head.num_convs,
            concat_input=False,
            dropout=config.auxiliary_head.dropout,
            **numerics,
        )
    return Segmentor(backbone, decode_head, auxiliary_head)


def check(config: ConfigDict) -> None:
    """Raises a UserError that names the first value of `config` that is out of its range."""
    choices = {
        "backbone.variant": ("v1c", "v1d"),
        "backbone.depth": tuple(BLOCKS_PER_STAGE),
        "backbone.output_stride": tuple(STRIDES),
        "decode_head.name": ("nonlocal", "fcn"),
        "decode_head.mode": get_args(Mode),
        "decode_head.implementation": get_args(Implementation),
        "remat": get_args(Remat),
        "dtype": ("auto", "float32", "bfloat16", "float16", "float64"),
        "param_dtype": ("float32", "bfloat16"),
    }
    for key, allowed in choices.items():
        value = config
        for part in key.split("."):
            value = value[part]
        if value not in allowed:
            listed = ", ".join(str(choice) for choice in allowed)
            raise UserError(f"config.model.{key} is {value!r}; it must be one of {listed}.")
    if config.num_classes < 1:
        raise UserError(f"config.model.num_classes is {config.num_classes}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class Network:
    """A segmentor without its arrays, which live in a plain dict by name.

    Everything outside the models - optimiser, checkpoints, sharding, conversion - works on such
    dicts: {"backbone/stem/0/conv/kernel": array, ...}.
    """

    graph: nnx.GraphDef
    state: nnx.State

    def bind(self, variables: Mapping[str, jax.Array]) -> Segmentor:
        """The segmentor that holds `variables`; also inside a jitted function."""
        leaves = [
            (path, leaf.replace(variables[_name(path)]))
            for path, leaf in nnx.to_flat_state(self.state)
        ]
        return nnx.merge(self.graph, nnx.from_flat_state(leaves))

    def bind_for_inference(self, variables: Mapping[str, jax.Array]) -> Segmentor:
        """The same with batch norm's running statistics, and without dropout.

        What only a backward pass or a compiler of long programs needs is left out, too: it would
        change modules, which must not be done inside of a loop over windows or mirrored images.
        """
        model = self.bind(variables)
        model.eval(remat="none", scan_blocks=False)
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


def for_platform(config: ConfigDict, platform: str) -> ConfigDict:
    """A `model` section with its "auto" values decided for a kind of device.

    Accelerators compute in bfloat16, with float32 parameters, norms, softmax, logits and loss; a
    CPU, which gains nothing from it, in float32. TPUs also compute norms again in the backward
    pass, which saves memory; on a GPU that takes 3% more time, and no "auto" does: where memory
    does not suffice, name "norms" or "blocks". A TPU's kernel must be named where the program is
    compiled on another machine.
    """
    config = config.copy_and_resolve_references()
    if config.dtype == "auto":
        config.dtype = "float32" if platform == "cpu" else "bfloat16"
    if config.remat == "auto":
        config.remat = "norms" if platform == "tpu" else "none"
    if config.decode_head.implementation == "auto" and platform == "tpu":
        config.decode_head.implementation = "pallas" if config.dtype == "bfloat16" else "chunked"
    return config


def build_network(config: ConfigDict, *, platform: str | None = None) -> Network:
    """The network of a config's `model` section, without allocating anything.

    `platform` is that of the devices it will run on, by default those of this process.
    """
    config = for_platform(config, platform or jax.default_backend())
    model = nnx.eval_shape(lambda: build_segmentor(config, nnx.Rngs(0)))
    return Network(*nnx.split(model))


def init_variables(config: ConfigDict, seed: int) -> dict[str, jax.Array]:
    """Freshly initialised variables of a config's `model` section, by name."""
    # "rbg" compiles several times faster than JAX's default generator, unrolled for every shape.
    key = jax.random.key(seed, impl="rbg")
    return jax.jit(lambda key: flat_variables(build_segmentor(config, nnx.Rngs(key))))(key)


def flat_variables(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter and statistic of `model` by name."""
    leaves = nnx.to_flat_state(nnx.state(model))
    return {_name(path): leaf.get_value() for path, leaf in leaves}


def _name(path: tuple[object, ...]) -> str:
    return "/".join(str(part) for part in path)
