"""Schedules and optimisers against their formulas."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.optimizers import decay, sgd
from nonlocal_jax.training.optimizers.optimizer import make_optimizer, remarks
from nonlocal_jax.training.schedules import polynomial

RATE = 0.1
# A network's parameters by name, with their values.
PARAMETERS = {
    "backbone/stem/conv/kernel": 2.0,
    "backbone/stem/norm/scale": 1.0,
    "backbone/stem/norm/bias": -0.5,
    "decode_head/classifier/kernel": 3.0,
    "decode_head/classifier/bias": 0.25,
}
GRADIENTS = (1.0, -0.5, 0.25)


def optimizer_of(**settings):
    """An optimiser at a constant learning rate; settings are keys of `optimizer`."""
    given = {"schedule.name": "constant", "learning_rate": RATE, **settings}
    config = files.load("demo", **{f"optimizer.{key}": value for key, value in given.items()})
    return make_optimizer(config.optimizer, total_steps=40, batch_size=8).transformation


def trained(gradients=GRADIENTS, **settings):
    """The parameters after some steps in which all of them have the same gradient."""
    optimizer = optimizer_of(**settings)
    parameters = {name: jnp.array(value) for name, value in PARAMETERS.items()}
    state = optimizer.init(parameters)
    for gradient in gradients:
        same = {name: jnp.array(gradient) for name in parameters}
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(same, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return {name: float(value) for name, value in parameters.items()}


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


def test_cosine_schedule():
    settings = {"schedule.name": "cosine", "schedule.min_learning_rate": 0.001}
    config = files.load("demo", **{f"optimizer.{key}": value for key, value in settings.items()})
    options = dataclasses.replace(config.optimizer, learning_rate=0.01, warmup_steps=3)
    schedule = make_optimizer(options, total_steps=40, batch_size=8).schedule
    for step in (0, 2, 3, 20, 39, 40):
        expected = 0.001 + 0.009 * (1 + math.cos(math.pi * step / 40)) / 2
        expected *= min((step + 1) / 4, 1)
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-6)


def test_constant_schedule():
    config = files.load("demo", **{"optimizer.schedule.name": "constant"})
    options = dataclasses.replace(config.optimizer, learning_rate=0.01, warmup_steps=3)
    schedule = make_optimizer(options, total_steps=40, batch_size=8).schedule
    rates = [float(schedule(step)) for step in (0, 1, 2, 3, 39)]
    np.testing.assert_allclose(rates, [0.0025, 0.005, 0.0075, 0.01, 0.01], rtol=1e-6)


def test_nesterov():
    found = trained(nesterov=True, momentum=0.9, weight_decay=0.01)
    for name, parameter in PARAMETERS.items():
        velocity = 0.0
        for gradient in GRADIENTS:
            decayed = gradient + 0.01 * parameter
            velocity = 0.9 * velocity + decayed
            parameter -= RATE * (decayed + 0.9 * velocity)
        np.testing.assert_allclose(found[name], parameter, rtol=1e-6, atol=1e-6)


def test_adamw():
    found = trained(name="adamw", b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.01)
    for name, parameter in PARAMETERS.items():
        mean = square = 0.0
        for step, gradient in enumerate(GRADIENTS, start=1):
            parameter *= 1 - RATE * 0.01
            mean = 0.8 * mean + 0.2 * gradient
            square = 0.95 * square + 0.05 * gradient**2
            root = math.sqrt(square / (1 - 0.95**step))
            parameter -= RATE * mean / (1 - 0.8**step) / (root + 1e-3)
        np.testing.assert_allclose(found[name], parameter, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "caffe2_sgd"])
@pytest.mark.parametrize(("norms", "biases"), [(True, True), (False, True), (False, False)])
def test_norms_and_biases_may_be_left_out_of_the_decay(name, norms, biases):
    found = trained((0.0,), name=name, weight_decay=0.5, decay_norms=norms, decay_biases=biases)
    decaying = {key for key, value in PARAMETERS.items() if found[key] != value}
    of_norms = {key for key in PARAMETERS if "/norm/" in key}
    expected = set(PARAMETERS)
    expected -= set() if norms else of_norms
    expected -= set() if biases else {"decode_head/classifier/bias"}
    assert decaying == expected


@pytest.mark.parametrize("name", ["sgd", "adamw", "caffe2_sgd"])
def test_layers_may_be_left_out_of_the_decay_by_name(name):
    found = trained((0.0,), name=name, weight_decay=0.5, undecayed=("classifier", "conv"))
    kept = {key for key, value in PARAMETERS.items() if found[key] == value}
    left_out = {key for key in PARAMETERS if "conv/" in key or "classifier/" in key}
    assert kept - {key for key in PARAMETERS if "/norm/" in key} == left_out
    assert name == "caffe2_sgd" or kept == left_out  # norms do not decay in caffe2_sgd


def test_a_layer_that_the_network_lacks_is_named_before_compiling():
    def program(*undecayed):
        config = files.load("demo", **{"optimizer.undecayed": undecayed})
        return TrainProgram.of(config, sharding.make_mesh(config.mesh))

    assert program("theta", "phi").network.trainable
    with pytest.raises(UserError, match=r"undecayed has 'thetta', and no layer .*, theta"):
        program("theta", "thetta")


def test_what_is_surprising_in_a_short_run_is_said():
    changes = {"schedule.name": "steps", "schedule.steps": (3, 5, 8), "warmup_steps": 5}
    config = files.load("demo", **{f"optimizer.{key}": value for key, value in changes.items()})
    assert remarks(config.optimizer, 9) == []
    (late,) = remarks(config.optimizer, 8)
    assert "schedule.steps has 8: the learning rate does not fall there" in late
    late, warm_up = remarks(config.optimizer, 5)
    assert "schedule.steps has 5, 8:" in late
    assert warm_up.startswith("The run ends within the warm-up: config.optimizer.warmup_steps is 5")


def test_the_norms_of_every_network_are_known():
    assert decay.is_of_a_norm("backbone/stage1/0/norm2/scale")
    assert not decay.is_of_a_norm("decode_head/normal/kernel/x")
    assert not decay.is_of_a_norm("scale")


def test_a_large_gradient_is_scaled_down():
    expected = trained((0.25,), weight_decay=0.0)
    norm = 0.25 * math.sqrt(len(PARAMETERS))
    for gradient in (0.25, 2.0):
        found = trained((gradient,), weight_decay=0.0, clip_norm=norm)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parts_of_the_network_have_their_own_learning_rates(name):
    found = trained(name=name, weight_decay=0.01, backbone_factor=0.1, head_factor=10.0)
    slow, fast = (trained(name=name, weight_decay=0.01, learning_rate=r) for r in (0.01, 1.0))
    for key, value in found.items():
        expected = slow if key.startswith("backbone/") else fast
        np.testing.assert_allclose(value, expected[key], rtol=1e-6, err_msg=key)


def test_by_default_the_state_is_that_of_older_checkpoints():
    parameters = {name: jnp.array(value) for name, value in PARAMETERS.items()}
    found = optimizer_of().init(parameters)
    rule = optax.chain(optax.add_decayed_weights(0.0), optax.sgd(lambda _: RATE, momentum=0.9))
    assert jax.tree.structure(found) == jax.tree.structure(rule.init(parameters))
