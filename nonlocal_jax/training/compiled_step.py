"""The train step as one compiled program, for local devices or described ones.

Training runs this program. `plan`, `benchmark` and the tests of memory inspect the same one.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from nonlocal_jax.config.schema import Run
from nonlocal_jax.models.functional import Functional
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compiler_options
from nonlocal_jax.training.optimizers import decay
from nonlocal_jax.training.optimizers.optimizer import Optimizer, make_optimizer
from nonlocal_jax.training.step import TrainState, Variables, initial_state, make_train_step
from nonlocal_jax.training.tasks import task as tasks
from nonlocal_jax.training.tasks.task import Objective


@dataclass(frozen=True)
class TrainProgram:
    """Everything that the train step of a run depends on.

    Attributes:
      mesh: the devices.
      network: with the dtype and the kernels of that platform.
      optimizer: updates its parameters.
      objective: what is minimised.
      batch: shapes and dtypes of a global batch.
      accumulate_steps: parts of a batch that are computed one after another.
      ema_decay: share of the average of the weights that each step keeps; 0: no average is kept.
      seed: seed of dropout.
    """

    mesh: Mesh
    network: Functional[Any]
    optimizer: Optimizer
    objective: Objective
    batch: dict[str, jax.ShapeDtypeStruct]
    accumulate_steps: int
    ema_decay: float
    seed: int

    @classmethod
    def of(cls, config: Run, mesh: Mesh) -> "TrainProgram":
        """The program of a config on a mesh.

        Raises:
          UserError: `undecayed` names a layer that the network lacks.
        """
        task = tasks.of(config)
        network = task.network(mesh)
        decay.check(config.optimizer, network.trainable)
        optimizer = make_optimizer(
            config.optimizer, total_steps=config.total_steps, batch_size=config.batch_size
        )
        return cls(
            mesh=mesh,
            network=network,
            optimizer=optimizer,
            objective=task.objective(),
            batch=task.batch(),
            accumulate_steps=config.accumulate_steps,
            ema_decay=config.ema_decay,
            seed=config.seed,
        )

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of everything that training changes."""
        abstract = jax.eval_shape(self._initial_state, self.network.shapes)
        placed: TrainState = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            abstract,
            sharding.variable_shardings(self.mesh, abstract),
        )
        return placed

    def first_state(self, variables: dict[str, Any]) -> TrainState:
        """The state at step 0 from a network's variables, on the mesh."""
        places = sharding.variable_shardings(self.mesh, self.abstract_state())
        first = jax.jit(self._initial_state, out_shardings=places)
        state: TrainState = first(sharding.place_variables(jax.device_get(variables), self.mesh))
        return state

    def _initial_state(self, variables: Variables) -> TrainState:
        return initial_state(
            self.network, variables, self.optimizer.transformation, averages=self.ema_decay > 0
        )

    def trace(self) -> jax.stages.Traced:
        """The traced step, (state, batch) -> (state, metrics), not yet lowered.

        The state that it is given is donated. `jaxpr` lists the operations.
        """
        step = make_train_step(
            self.network,
            self.optimizer.transformation,
            self.objective,
            accumulate_steps=self.accumulate_steps,
            ema_decay=self.ema_decay,
            seed=self.seed,
        )
        state = self.abstract_state()
        places = sharding.variable_shardings(self.mesh, state)
        jitted = jax.jit(
            step, donate_argnums=0, out_shardings=(places, sharding.replicated(self.mesh))
        )
        with jax.set_mesh(self.mesh):  # the network reads the mesh from the context
            return jitted.trace(state, sharding.abstract_batch(self.mesh, self.batch))

    def compile(self) -> jax.stages.Compiled:
        """The compiled step for local devices: (state, batch) -> (state, metrics)."""
        platform = self.mesh.devices.flat[0].platform
        compiled: jax.stages.Compiled = (
            self.trace().lower().compile(compiler_options(platform, training=True))
        )
        return compiled
