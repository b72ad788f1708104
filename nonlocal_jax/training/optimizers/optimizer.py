"""From a config's `optimizer` section to a schedule and a gradient transformation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nonlocal_jax.config import tables
from nonlocal_jax.config.schema import OptimizerOptions

BACKBONE = "backbone/"  # what the names of its parameters begin with


class Optimizer(NamedTuple):
    """A schedule and an update rule.

    Attributes:
      schedule: learning rate by step.
      transformation: from gradients to updates.
    """

    schedule: optax.Schedule
    transformation: optax.GradientTransformation


def make_optimizer(options: OptimizerOptions, *, total_steps: int, batch_size: int) -> Optimizer:
    """The optimiser that a config names.

    Args:
      options: the section `optimizer` of a config.
      total_steps: number of steps of the run.
      batch_size: the global batch size.
    """
    module = tables.find("schedules", options.schedule.name, "optimizer.schedule.name")
    schedule = module.build(options.schedule, options.learning_rate, total_steps)
    base = options.scale_from_batch_size
    schedule = scaled(schedule, batch_size / base if base else 1.0, options.warmup_steps)
    module = tables.find("optimizers", options.name, "optimizer.name")
    rule = module.build(options, schedule)
    # Without clipping and factors it stays as it is: older checkpoints hold its state.
    before = [optax.clip_by_global_norm(options.clip_norm)] if options.clip_norm else []
    factors = options.backbone_factor, options.head_factor
    after = [scaled_by_part(*factors)] if factors != (1.0, 1.0) else []
    return Optimizer(schedule, optax.chain(*before, rule, *after) if before or after else rule)


def remarks(options: OptimizerOptions, total_steps: int) -> list[str]:
    """What is surprising in the learning rates of a run of so many steps, a sentence each."""
    found = options.schedule.remarks("optimizer.schedule", total_steps)
    if options.warmup_steps >= total_steps:
        found.append(
            f"The run ends within the warm-up: config.optimizer.warmup_steps is "
            f"{options.warmup_steps}, config.total_steps {total_steps}."
        )
    return found


def scaled_by_part(backbone: float, heads: float) -> optax.GradientTransformation:
    """Multiplies updates, and with them learning rates, by a factor of each part of the network."""

    def scale(updates: dict[str, jax.Array], _: object) -> dict[str, jax.Array]:
        return {
            name: (backbone if name.startswith(BACKBONE) else heads) * update
            for name, update in updates.items()
        }

    return optax.stateless(scale)


def scaled(schedule: optax.Schedule, scale: float, warmup_steps: int) -> optax.Schedule:
    """`scale` times the schedule, after a warm-up of `warmup_steps` steps.

    This is the linear scaling rule for large batches (arXiv 1706.02677): with k times the batch
    size goes k times the learning rate. In the warm-up, the learning rate of step t (from 0) is
    multiplied by (t + 1) / (warmup_steps + 1).
    """
    if scale == 1.0 and warmup_steps == 0:
        return schedule  # one operation less in the update of every parameter

    def ramped(step: jax.typing.ArrayLike) -> jax.Array:
        ramp = (jnp.asarray(step, jnp.result_type(float)) + 1) / (warmup_steps + 1)
        return jnp.asarray(scale * jnp.minimum(ramp, 1.0) * schedule(step))

    return ramped
