"""From a config's `optimizer` section to a schedule and a gradient transformation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nonlocal_jax.config import tables
from nonlocal_jax.config.schema import OptimizerOptions


class Optimizer(NamedTuple):
    """What changes the parameters.

    Attributes:
      schedule: learning rate by step.
      transformation: from gradients to updates.
    """

    schedule: optax.Schedule
    transformation: optax.GradientTransformation


def make_optimizer(options: OptimizerOptions, *, total_steps: int, batch_size: int) -> Optimizer:
    """The optimiser that a config names.

    Args:
      options: the config's section.
      total_steps: of the whole run.
      batch_size: the global one.
    """
    module = tables.find("schedules", options.schedule.name, "optimizer.schedule.name")
    schedule = module.build(options.schedule, options.learning_rate, total_steps)
    base = options.scale_from_batch_size
    schedule = scaled(schedule, batch_size / base if base else 1.0, options.warmup_steps)
    module = tables.find("optimizers", options.name, "optimizer.name")
    return Optimizer(schedule, module.build(options, schedule))


def scaled(schedule: optax.Schedule, scale: float, warmup_steps: int) -> optax.Schedule:
    """`scale` times the schedule; its first `warmup_steps` steps rise to that from near 0.

    The linear scaling rule for large batches (arXiv 1706.02677): k times the batch takes k times
    the learning rate, reached gradually. In warm-up, step t (from 0) has the share
    (t + 1) / (warmup_steps + 1) of what it would have without.
    """
    if scale == 1.0 and warmup_steps == 0:
        return schedule  # the update of every parameter computes its own learning rate

    def ramped(step: jax.typing.ArrayLike) -> jax.Array:
        ramp = (jnp.asarray(step, jnp.result_type(float)) + 1) / (warmup_steps + 1)
        return jnp.asarray(scale * jnp.minimum(ramp, 1.0) * schedule(step))

    return ramped
