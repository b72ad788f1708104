"""Polynomial decay, the reference's "poly" policy: lr(t) = (lr - min) (1 - t/T)^power + min."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from nonlocal_jax.config.schema import NotNegative, Positive, ScheduleOptions


@dataclass(frozen=True, kw_only=True)
class Options(ScheduleOptions):
    """Settings of the schedule."""

    name: str = "polynomial"
    power: Positive = 0.9
    """The exponent. 1: a straight line. Less than 1: the learning rate falls later."""
    min_learning_rate: NotNegative = 1e-4
    """The learning rate after the last step."""


def build(options: Options, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Learning rate by step, from `learning_rate` to `options.min_learning_rate`."""
    schedule = optax.polynomial_schedule(
        learning_rate, options.min_learning_rate, options.power, total_steps
    )
    # An integer step would be divided in float32, even with 64 bits enabled.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))
