"""The learning rate stays as it is."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from nonlocal_jax.config.schema import ScheduleOptions


@dataclass(frozen=True, kw_only=True)
class Options(ScheduleOptions):
    """This schedule has no settings."""

    name: str = "constant"


def build(options: Options, learning_rate: float, total_steps: int) -> optax.Schedule:
    """`learning_rate` at every step."""
    del total_steps
    return lambda step: jnp.asarray(learning_rate, jnp.result_type(float))
