"""SGD with momentum as in PyTorch, which trained every published row."""

from dataclasses import dataclass

import optax

from nonlocal_jax.config.schema import Factor, OptimizerOptions, Probability
from nonlocal_jax.training.optimizers import decay


@dataclass(frozen=True, kw_only=True)
class Options(OptimizerOptions):
    """Settings of the optimiser."""

    name: str = "sgd"
    weight_decay: Factor = 5e-4
    """Weight decay: this factor times the parameter is added to its gradient."""
    momentum: Probability = 0.9
    """Share of the last update that is added to the next one."""
    nesterov: bool = False
    """Whether the gradient is added once more after the momentum, which is Nesterov's."""


def build(options: Options, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD. The weight decay is added to the gradient, before the momentum."""
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay, decay.mask(options)),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.nesterov),
    )
