"""Step decay: the learning rate is multiplied by a factor at some steps."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from nonlocal_jax.config.schema import Count, Positive, ScheduleOptions


@dataclass(frozen=True, kw_only=True)
class Options(ScheduleOptions):
    """Settings of the schedule."""

    name: str = "steps"
    steps: tuple[Count, ...] = (150_000, 300_000)
    """Numbers of finished steps at which the learning rate falls."""
    factor: Positive = 0.1
    """What it is multiplied by each time."""


def build(options: Options, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Learning rate by step: `learning_rate`, times `options.factor` at each of `options.steps`."""
    del total_steps
    rates = [learning_rate * options.factor**count for count in range(len(options.steps) + 1)]

    def schedule(step: optax.ScalarOrSchedule) -> jnp.ndarray:
        passed = jnp.sum(jnp.asarray(step) >= jnp.array(sorted(options.steps), jnp.int32))
        return jnp.array(rates, jnp.result_type(float))[passed]

    return schedule
