"""Precise batch norm: statistics over many batches with the same parameters.

Running averages mix batches that earlier parameters have seen. The published video networks were
tested, and saved, with the mean of the means and of the second moments of many training batches.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compiler_options
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.step import Batch, TrainState, Variables

MEAN, VARIANCE = "/mean", "/var"


class PreciseNorm:
    """Computes the statistics of all batch norms again.

    Args:
      program: the train step whose batch norms these are.
      batches: the training batches from a step on: a function of that step.
      count: number of batches; 0 leaves the running averages as they are.
    """

    def __init__(
        self,
        program: TrainProgram,
        batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
        count: int,
    ):
        self._program, self._batches, self._count = program, batches, count
        self._compiled: jax.stages.Compiled | None = None
        names = set(program.network.shapes) - program.network.trainable
        self._layers = sorted(
            name.removesuffix(MEAN)
            for name in names
            if name.endswith(MEAN) and name.removesuffix(MEAN) + VARIANCE in names
        )

    def __call__(self, step: int, state: TrainState) -> TrainState:
        """The state with new statistics. They depend on the step, its parameters and the data only.

        The batches are those that follow the step, so a resumed run computes the same.
        """
        if not self._count or not self._layers:
            return state
        compiled = self._compiled = self._compiled or self._compile(state)
        means = {name: np.zeros(1) for name in self._layers}
        squares = dict(means)
        batches = self._batches(step)
        for number in range(self._count):
            batch = sharding.put_batch(next(batches), self._program.mesh)
            key = jax.random.key(number)
            seen = jax.device_get(compiled(state.parameters, state.statistics, batch, key))
            for name in self._layers:
                mean, variance = (np.float64(seen[name + part]) for part in (MEAN, VARIANCE))
                means[name] = means[name] + mean / self._count
                squares[name] = squares[name] + (variance + mean**2) / self._count
        found = {name + MEAN: means[name] for name in self._layers}
        found |= {name + VARIANCE: squares[name] - means[name] ** 2 for name in self._layers}
        new = {name: _like(state.statistics[name], value) for name, value in found.items()}
        return state._replace(statistics={**state.statistics, **new})

    def _compile(self, state: TrainState) -> jax.stages.Compiled:
        program = self._program
        forward = jax.jit(
            batch_moments(program, self._layers), out_shardings=sharding.replicated(program.mesh)
        )
        batch = sharding.abstract_batch(program.mesh, program.batch)
        with jax.set_mesh(program.mesh):
            lowered = forward.lower(state.parameters, state.statistics, batch, jax.random.key(0))
        platform = program.mesh.devices.flat[0].platform
        compiled: jax.stages.Compiled = lowered.compile(compiler_options(platform, training=True))
        return compiled


def batch_moments(
    program: TrainProgram, layers: Sequence[str]
) -> Callable[[Variables, Variables, Batch, jax.Array], Variables]:
    """A function that returns mean and biased variance of a batch in each layer.

    It takes parameters, statistics, a batch and a key for dropout. Its results have the names of
    the running statistics.
    """
    names = [name + part for name in layers for part in (MEAN, VARIANCE)]

    def moments(
        parameters: Variables, statistics: Variables, batch: Batch, key: jax.Array
    ) -> Variables:
        model = program.network.bind(sharding.gathered({**parameters, **statistics}))
        model.train(records_batches=True)
        program.objective(model, batch, nnx.Rngs(dropout=key))
        variables = flat_variables(model)
        return {name: variables[name] for name in names}

    return moments


def _like(old: jax.Array, value: np.ndarray) -> jax.Array:
    new: jax.Array = jax.device_put(value.astype(old.dtype), old.sharding)
    return new
