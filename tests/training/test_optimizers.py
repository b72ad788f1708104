"""Schedules and optimisers against their formulas."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.config import files
from nonlocal_jax.training.optimizers import sgd
from nonlocal_jax.training.optimizers.optimizer import make_optimizer
from nonlocal_jax.training.schedules import polynomial


def test_polynomial_schedule():
    schedule = polynomial.build(polynomial.Options(), 0.01, 40_000)
    for step in (0, 1, 20_000, 39_999):
        expected = (0.01 - 1e-4) * (1 - step / 40_000) ** 0.9 + 1e-4
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


@pytest.mark.parametrize(("base", "warmup"), [(0, 0), (16, 0), (16, 5), (0, 5)])
def test_the_learning_rate_of_another_batch(base, warmup):
    """The rows' own by default; else in proportion to the batch, after a rise in equal steps."""
    config = files.load("demo", **{"optimizer.learning_rate": 0.01})
    options = dataclasses.replace(config.optimizer, scale_from_batch_size=base, warmup_steps=warmup)
    schedule = make_optimizer(options, total_steps=40_000, batch_size=64).schedule
    for step in (0, 1, 4, 5, 20_000):
        expected = (0.01 - 1e-4) * (1 - step / 40_000) ** 0.9 + 1e-4
        expected *= 4 if base else 1
        if step < warmup:
            expected *= [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6][step]
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


def test_sgd_decays_weights_before_the_momentum():
    options = sgd.Options(momentum=0.9, weight_decay=0.01, schedule=polynomial.Options())
    optimizer = sgd.build(options, lambda _: 0.1)
    parameter, velocity = 2.0, 0.0
    ours = {"x": jnp.array(parameter)}
    state = optimizer.init(ours)
    for gradient in (1.0, -0.5, 0.25):
        velocity = 0.9 * velocity + gradient + 0.01 * parameter
        parameter -= 0.1 * velocity
        updates, state = optimizer.update({"x": jnp.array(gradient)}, state, ours)
        ours = {"x": ours["x"] + updates["x"]}
        np.testing.assert_allclose(ours["x"], parameter, rtol=1e-6)
