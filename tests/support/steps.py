"""The optimiser and the train step of golden/make_model.py."""

import jax

from nonlocal_jax.training.losses.cross_entropy import segmentation_loss
from nonlocal_jax.training.optimizers import sgd
from nonlocal_jax.training.schedules import polynomial
from nonlocal_jax.training.step import make_train_step
from nonlocal_jax.training.tasks.segmentation import objective


def optimizer(rate=1e-3):
    """SGD from a learning rate of `rate` to 1e-5 over 20 steps."""
    falling = polynomial.Options(min_learning_rate=1e-5)
    return sgd.build(sgd.Options(schedule=falling), polynomial.build(falling, rate, 20))


def train_step(network, rate=1e-3, **options):
    """The jitted step of that optimiser: (state, batch) -> (state, metrics)."""
    minimised = objective(segmentation_loss, options.pop("align_corners", False))
    return jax.jit(make_train_step(network, optimizer(rate), minimised, **options))
