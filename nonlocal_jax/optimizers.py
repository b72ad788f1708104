"""SGD and the polynomial schedule, as every published row was trained."""

import jax.numpy as jnp
import optax


def polynomial_schedule(
    learning_rate: float, *, min_learning_rate: float, power: float, total_steps: int
) -> optax.Schedule:
    """lr(t) = (lr - min) (1 - t/T)^power + min, by iteration (mmcv's "poly" policy)."""
    schedule = optax.polynomial_schedule(learning_rate, min_learning_rate, power, total_steps)
    # An integer step would be divided in float32 even where 64 bits are switched on.
    return lambda step: schedule(jnp.asarray(step, jnp.result_type(float)))


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: the decay of *every* parameter joins its gradient before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum),
    )
