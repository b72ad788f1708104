"""SGD with momentum as in PyTorch, which trained every published row."""

from dataclasses import dataclass

import optax

from nonlocal_jax.config.schema import OptimizerOptions, Probability


@dataclass(frozen=True, kw_only=True)
class Options(OptimizerOptions):
    """Settings of the optimiser."""

    name: str = "sgd"
    momentum: Probability = 0.9
    """Share of the last update that is added to the next one."""


def build(options: Options, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD. The weight decay of *every* parameter is added to its gradient, before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay),
        optax.sgd(schedule, momentum=options.momentum),
    )
