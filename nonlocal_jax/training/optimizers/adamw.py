"""AdamW (arXiv 1711.05101, algorithm 2): Adam, with parameters that decay apart from gradients."""

from dataclasses import dataclass

import optax

from nonlocal_jax.config.schema import Factor, KeptShare, OptimizerOptions, Positive
from nonlocal_jax.training.optimizers import decay


@dataclass(frozen=True, kw_only=True)
class Options(OptimizerOptions):
    """Settings of the optimiser."""

    name: str = "adamw"
    weight_decay: Factor = 5e-4
    """Decoupled weight decay: each step subtracts this factor times the learning rate times the
    parameter from it. The gradient is not changed."""
    b1: KeptShare = 0.9
    """Share of the mean gradient that is kept."""
    b2: KeptShare = 0.999
    """Share of the mean squared gradient that is kept."""
    eps: Positive = 1e-8
    """What is added to the root of the mean squared gradient."""


def build(options: Options, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW. The decay is multiplied by the learning rate, too, as in PyTorch."""
    return optax.adamw(
        schedule,
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        mask=decay.mask(options),
    )
