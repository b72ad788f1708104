"""SGD and the polynomial schedule, as every published row was trained, and for other batches."""

import jax
import jax.numpy as jnp
import optax


def polynomial_schedule(
    learning_rate: float, *, min_learning_rate: float, power: float, total_steps: int
) -> optax.Schedule:
    """lr(t) = (lr - min) (1 - t/T)^power + min, by iteration (mmcv's "poly" policy)."""
    schedule = optax.polynomial_schedule(learning_rate, min_learning_rate, power, total_steps)
    # An integer step would be divided in float32 even where 64 bits are switched on.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def scaled_schedule(schedule: optax.Schedule, scale: float, warmup_steps: int) -> optax.Schedule:
    """`scale` times the schedule; its first `warmup_steps` steps rise to that from near 0.

    The linear scaling rule for large batches (arXiv 1706.02677): k times the batch takes k times
    the learning rate, reached gradually. In warm-up, step t (from 0) has the share
    (t + 1) / (warmup_steps + 1) of what it would have without.
    """
    if scale == 1.0 and warmup_steps == 0:
        return schedule  # the update of every parameter computes its own learning rate

    def scaled(step: jax.typing.ArrayLike) -> jax.Array:
        ramp = (jnp.asarray(step, jnp.result_type(float)) + 1) / (warmup_steps + 1)
        return scale * jnp.minimum(ramp, 1.0) * schedule(step)

    return scaled


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: the decay of *every* parameter joins its gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum),
    )
