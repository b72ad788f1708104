"""The learning rate falls along half a cosine (arXiv 1608.03983, equation 5, without restarts)."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from nonlocal_jax.config.schema import NotNegative, ScheduleOptions


@dataclass(frozen=True, kw_only=True)
class Options(ScheduleOptions):
    """Settings of the schedule."""

    name: str = "cosine"
    min_learning_rate: NotNegative = 0.0
    """The learning rate after the last step."""


def build(options: Options, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Learning rate by step, from `learning_rate` to `options.min_learning_rate`."""
    schedule = optax.cosine_decay_schedule(
        learning_rate, total_steps, options.min_learning_rate / learning_rate
    )
    # An integer step would be divided in float32, even with 64 bits enabled.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))
