"""Step decay: the learning rate is multiplied by a factor at some steps."""

import itertools
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

    def problems(self, key: str) -> list[str]:
        """See ScheduleOptions."""
        if all(low < high for low, high in itertools.pairwise(self.steps)):
            return []
        return [f"config.{key}.steps is {self.steps}; each must be larger than the one before it."]

    def remarks(self, key: str, total_steps: int) -> list[str]:
        """See ScheduleOptions."""
        late = [str(step) for step in self.steps if step >= total_steps]
        if not late:
            return []
        return [
            f"config.{key}.steps has {', '.join(late)}: the learning rate does not fall there, "
            f"because the run ends at step {total_steps}, config.total_steps."
        ]


def build(options: Options, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Learning rate by step: `learning_rate`, times `options.factor` at each of `options.steps`."""
    del total_steps
    rates = [learning_rate * options.factor**count for count in range(len(options.steps) + 1)]

    def schedule(step: optax.ScalarOrSchedule) -> jnp.ndarray:
        passed = jnp.sum(jnp.asarray(step) >= jnp.array(options.steps, jnp.int32))
        return jnp.array(rates, jnp.result_type(float))[passed]

    return schedule
