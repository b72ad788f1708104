"""One step of training: state and batch in, state and metrics out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from nonlocal_jax.models.functional import Functional, flat_variables
from nonlocal_jax.ops.dtypes import float32_or_wider
from nonlocal_jax.runtime.sharding import gathered
from nonlocal_jax.training.tasks.task import Objective

Network = Functional[Any]
Variables = dict[str, jax.Array]
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
GradientFunction = Callable[
    [Variables, Variables, Batch, jax.Array], tuple[Variables, tuple[Variables, Metrics]]
]
"""From parameters, statistics, a batch and a key to gradients, new statistics and metrics."""


class TrainState(NamedTuple):
    """Everything that a step changes."""

    step: Int[Array, ""]
    parameters: Variables
    statistics: Variables  # batch norms' running statistics, and frozen parameters
    optimizer: Any
    average: Variables  # of parameters and statistics over the steps; empty if it is not kept

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and statistics in one dict, as `Network.bind` takes them.

        Of an abstract state, these are shapes and dtypes.
        """
        return {**self.parameters, **self.statistics}

    @property
    def evaluated(self) -> dict[str, jax.Array]:
        """The variables that are evaluated: their average, if there is one."""
        variables = self.variables
        return {k: v.astype(variables[k].dtype) for k, v in self.average.items()} or variables


def initial_state(
    network: Network,
    variables: Variables,
    optimizer: optax.GradientTransformation,
    *,
    averages: bool = False,
) -> TrainState:
    """The state at step 0 from all of a network's variables; `averages` if it keeps an average."""
    trainable = network.trainable
    parameters = {k: v for k, v in variables.items() if k in trainable}
    statistics = {k: v for k, v in variables.items() if k not in trainable}
    average = {k: float32_or_wider(v) for k, v in variables.items()} if averages else {}
    start = jnp.zeros((), jnp.int32)
    return TrainState(start, parameters, statistics, optimizer.init(parameters), average)


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    accumulate_steps: int = 1,
    ema_decay: float = 0.0,
    seed: int = 0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step as a pure function. The caller jits it.

    Metrics are those of the objective, and `finite`. If the loss, a gradient or a running statistic
    is not finite, the step changes nothing but the step counter.

    Args:
      network: the network to train.
      optimizer: its state is in `TrainState.optimizer`.
      objective: what is minimised, for a network and a batch.
      accumulate_steps: the batch is split into this many parts, and their gradients are averaged.
        Batch norm sees one part at a time.
      ema_decay: see `moved_average`; of a state that keeps one.
      seed: of dropout. It is combined with the step's number, so resuming needs no generator state.
    """

    gradient_function = _gradient_function(network, objective)
    if accumulate_steps > 1:
        gradient_function = _accumulated(gradient_function, accumulate_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, (statistics, metrics) = gradient_function(
            state.parameters, state.statistics, batch, key
        )
        with jax.numpy_dtype_promotion("standard"):  # which Optax counts on
            updates, optimizer_state = optimizer.update(
                gradients, state.optimizer, state.parameters
            )
        parameters = optax.apply_updates(state.parameters, updates)
        average = moved_average(state.average, {**parameters, **statistics}, state.step, ema_decay)
        new_state = TrainState(state.step, parameters, statistics, optimizer_state, average)
        finite = jnp.isfinite(metrics["loss"]) & _all_finite(gradients) & _are_numbers(statistics)
        kept = jax.tree.map(
            lambda new, old: lax.select(finite, new.astype(old.dtype), old), new_state, state
        )
        return kept._replace(step=state.step + 1), {**metrics, "finite": finite}

    return train_step


def moved_average(
    average: Variables, variables: Variables, step: Int[Array, ""], decay: float
) -> Variables:
    """The exponential moving average after one more step: decay average + (1 - decay) variables.

    After few steps the decay is (1 + step) / (10 + step), if that is smaller: the initial weights
    would count too much. A variable that does not change stays exactly what it is.

    Args:
      average: before the step; empty if there is none.
      variables: after it.
      step: number of steps before it.
      decay: the share that is kept.
    """
    count = step.astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    return {
        name: old + share.astype(old.dtype) * (variables[name].astype(old.dtype) - old)
        for name, old in average.items()
    }


def _gradient_function(network: Network, objective: Objective) -> GradientFunction:
    """Gradients and results of the forward pass."""

    def loss_function(
        parameters: Variables, statistics: Variables, batch: Batch, key: jax.Array
    ) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        model = network.bind(gathered({**parameters, **statistics}))
        model.train()
        metrics = objective(model, batch, nnx.Rngs(dropout=key))
        variables = flat_variables(model)
        return metrics["loss"], ({k: variables[k] for k in statistics}, metrics)

    return jax.grad(loss_function, has_aux=True)


def _accumulated(gradient_function: GradientFunction, count: int) -> GradientFunction:
    """The same for `count` parts of a batch, one after another: means over the parts."""

    def accumulated(
        parameters: Variables, statistics: Variables, batch: Batch, key: jax.Array
    ) -> tuple[Variables, tuple[Variables, Metrics]]:
        def part(
            carry: tuple[Variables, Variables], item: tuple[Batch, jax.Array]
        ) -> tuple[tuple[Variables, Variables], Metrics]:
            total, statistics = carry
            gradients, (statistics, metrics) = gradient_function(parameters, statistics, *item)
            return (jax.tree.map(jnp.add, total, gradients), statistics), metrics

        zeros = jax.tree.map(jnp.zeros_like, parameters)
        parts = _split(batch, count), jax.random.split(key, count)
        (total, statistics), metrics = lax.scan(part, (zeros, statistics), parts)
        gradients = jax.tree.map(lambda g: g / count, total)
        means = {k: (jnp.nanmean if k == "accuracy" else jnp.mean)(v) for k, v in metrics.items()}
        return gradients, (statistics, means)

    return accumulated


def _all_finite(gradients: Variables) -> Bool[Array, ""]:
    """Whether every entry is finite. Vectors, two thirds of the arrays, are summed together."""
    leaves = gradients.values()
    vectors = jnp.concatenate([leaf for leaf in leaves if leaf.ndim == 1])
    return jnp.isfinite(optax.global_norm([vectors, *(leaf for leaf in leaves if leaf.ndim > 1)]))


def _are_numbers(statistics: Variables) -> Bool[Array, ""]:
    """Whether all running statistics are finite: large activations may overflow a variance only."""
    vectors = [leaf.astype(jnp.float32) for leaf in statistics.values() if leaf.ndim == 1]
    return jnp.all(jnp.isfinite(jnp.concatenate(vectors))) if vectors else jnp.array(True)


def _split(batch: Batch, parts: int) -> Batch:
    """[n, ...] to [parts, n / parts, ...], with each part split over all devices."""
    return {
        name: jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
        for name, x in batch.items()
    }
