"""The train step as one compiled program, for devices that are here or only described.

Training runs this program; `plan`, `benchmark` and the tests of memory look at the very same one.
"""

import jax
import optax
from ml_collections import ConfigDict

from nonlocal_jax.models.network import Network, build_network
from nonlocal_jax.runtime import compilation, sharding
from nonlocal_jax.training.optimizers.sgd import polynomial_schedule, scaled_schedule, sgd
from nonlocal_jax.training.step import TrainState, initial_state, make_train_step


def network_on(config: ConfigDict, mesh: jax.sharding.Mesh) -> Network:
    """The network of a config, with the dtype and kernels that suit the mesh's devices."""
    return build_network(config.model, platform=mesh.devices.flat[0].platform)


def learning_rate_schedule(config: ConfigDict) -> optax.Schedule:
    """Learning rate by step."""
    schedule = polynomial_schedule(
        config.optimizer.learning_rate,
        min_learning_rate=config.optimizer.min_learning_rate,
        power=config.optimizer.power,
        total_steps=config.total_steps,
    )
    base = config.optimizer.scale_from_batch_size
    scale = config.batch_size / base if base else 1.0
    return scaled_schedule(schedule, scale, config.optimizer.warmup_steps)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The optimiser of a config."""
    return sgd(
        learning_rate_schedule(config),
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )


def abstract_state(
    network: Network, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of everything that training changes."""
    abstract = jax.eval_shape(lambda v: initial_state(network, v, optimizer), network.shapes)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        sharding.variable_shardings(mesh, abstract),
    )


def compile_train_step(
    config: ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Compiled:
    """The train step of a config for devices that are here: (state, batch) -> (state, metrics).

    `network` and `optimizer` are what `network_on` and `make_optimizer` give for `config`: it alone
    decides whether an earlier run's program is the same.
    """
    return compilation.find_or_compile(
        "train_step",
        config.to_json_best_effort(),
        mesh,
        lambda: lower_train_step(config, network, optimizer, mesh),
    )


def lower_train_step(
    config: ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Lowered:
    """The train step for a mesh, ready to `compile()`: (state, batch) -> (state, metrics).

    It takes over the memory of the state that it is given.
    """
    return trace_train_step(config, network, optimizer, mesh).lower()


def trace_train_step(
    config: ConfigDict,
    network: Network,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Traced:
    """The same before it is lowered: its `jaxpr` lists the operations."""
    step = make_train_step(
        network,
        optimizer,
        align_corners=config.model.align_corners,
        auxiliary_weight=config.model.auxiliary_head.loss_weight,
        accumulate_steps=config.accumulate_steps,
        seed=config.seed,
    )
    state = abstract_state(network, optimizer, mesh)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(sharding.variable_shardings(mesh, state), sharding.replicated(mesh)),
    )
    with jax.set_mesh(mesh):  # so that the network knows how it is split
        return jitted.trace(
            state, sharding.abstract_batch(mesh, config.batch_size, config.data.crop_size)
        )
