"""SGD as in Caffe2, which trained the published video networks.

For a parameter p with gradient g, at a learning rate r that was r0 in the step before:

    g <- g + weight_decay p      except for the scale and the bias of a norm
    v <- (r / r0) v              only where r and r0 differ
    v' = momentum v + r g
    p <- p - ((1 + momentum) v' - momentum v)      Nesterov's momentum

The learning rate is inside v, so v is rescaled when it changes (arXiv 1706.02677, section 2.3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import OptimizerOptions, Probability, chosen
from nonlocal_jax.training.optimizers import decay

CHANGED = 1e-7  # relative change of the learning rate from which v is rescaled


@dataclass(frozen=True, kw_only=True)
class Options(OptimizerOptions):
    """Settings of the optimiser."""

    name: str = "caffe2_sgd"
    weight_decay: schema.NotNegative = 1e-4
    """This factor times the parameter is added to its gradient."""
    decay_norms: bool = False
    """Whether scales and biases of norms decay, too."""
    momentum: Probability = 0.9
    """Share of the last update that is added to the next one."""
    schedule: schema.ScheduleOptions = chosen("schedules", "steps")
    """The schedule of the learning rate."""


class State(NamedTuple):
    """What the optimiser keeps.

    Attributes:
      step: number of finished steps.
      velocity: v of each parameter, the learning rate of the last step inside.
    """

    step: Int[Array, ""]
    velocity: dict[str, jax.Array]


def build(options: Options, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The update rule; parameters are a dict by name."""
    momentum = options.momentum

    def init(parameters: dict[str, jax.Array]) -> State:
        return State(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, parameters))

    def update(
        gradients: dict[str, jax.Array],
        state: State,
        parameters: dict[str, jax.Array] | None = None,
    ) -> tuple[dict[str, jax.Array], State]:
        assert parameters is not None
        rate = jnp.asarray(schedule(state.step))
        ratio = _ratio(rate, jnp.asarray(schedule(jnp.maximum(state.step - 1, 0))))
        updates, velocity = {}, {}
        for name, parameter in parameters.items():
            factor = options.weight_decay if decay.decays(options, name) else 0.0
            gradient = gradients[name] + factor * parameter
            old = ratio.astype(parameter.dtype) * state.velocity[name]
            new = momentum * old + rate.astype(parameter.dtype) * gradient
            updates[name] = momentum * old - (1 + momentum) * new
            velocity[name] = new
        return updates, State(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)


def _ratio(now: jax.Array, before: jax.Array) -> jax.Array:
    """What v is multiplied by; exactly 1 where the learning rate does not change."""
    ratio = now / before
    return jnp.where(jnp.abs(ratio - 1) > CHANGED, ratio, jnp.ones_like(ratio))
