"""Caffe2's optimiser, step by step, and the steps of its learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from video import VIDEO, Mini, golden, load, ours

from nonlocal_jax.checkpoints.caffe2 import rules
from nonlocal_jax.models.functional import Functional, flat_variables
from nonlocal_jax.models.layers import BatchNorm
from nonlocal_jax.training.losses.classification import classification_loss
from nonlocal_jax.training.optimizers import caffe2_sgd
from nonlocal_jax.training.schedules import steps
from nonlocal_jax.training.step import initial_state, make_train_step

RATES = steps.Options(steps=(2,))


def optimizer(**options):
    schedule = steps.build(RATES, 0.1, 4)
    return caffe2_sgd.build(caffe2_sgd.Options(schedule=RATES, **options), schedule)


def test_four_steps_equal_caffe2s():
    """Parameters, momenta and running statistics, with a change of the rate before the third."""
    blobs = golden(VIDEO / "minitrain.npz")
    start = {k.removeprefix("init/"): v for k, v in blobs.items() if k.startswith("init/")}
    model = Mini()
    load(model, Mini.caffe2_keys, start)
    network = Functional(*nnx.split(model))

    def objective(bound, batch, rngs):
        result = classification_loss(bound(batch["clip"]), batch["label"])
        return {"loss": result.loss, "accuracy": result.accuracy}

    rule = optimizer()
    step = jax.jit(make_train_step(network, rule, objective))
    state = initial_state(network, flat_variables(model), rule)
    batch = {"clip": ours(blobs["data"]), "label": jnp.asarray(blobs["labels"], jnp.int32)}
    entries = rules.entries(state.variables, Mini.caffe2_keys)
    for number in range(1, 5):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], blobs[f"loss/{number}"], rtol=1e-5)
        after = {
            k.removeprefix(f"after{number}/"): v
            for k, v in blobs.items()
            if k.startswith(f"after{number}/")
        }
        for name, entry in entries.items():
            expected = rules.to_ours(after[entry.key], entry.layout)
            close(state.variables[name], expected, name)
            if name in state.parameters:
                momentum = rules.to_ours(after[f"{entry.key}_momentum"], entry.layout)
                close(state.optimizer.velocity[name], momentum, f"momentum of {name}")


def close(actual, expected, name):
    bound = 1e-5 * max(np.abs(expected).max(), 0.1)  # some are zero but for rounding
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=name)


def test_norms_do_not_decay_and_biases_do():
    parameters = {name: jnp.ones(3) for name in ("a/norm/scale", "a/norm/bias", "head/bias")}
    rule = optimizer(weight_decay=0.5, momentum=0.0)
    gradients = jax.tree.map(jnp.zeros_like, parameters)
    updates, _ = rule.update(gradients, rule.init(parameters), parameters)
    changed = {name for name, update in updates.items() if np.any(np.asarray(update))}
    assert changed == {"head/bias"}
    np.testing.assert_allclose(optax.apply_updates(parameters, updates)["head/bias"], 0.95)


def test_the_momentum_is_rescaled_only_where_the_rate_changes():
    parameters, zero = {"w": jnp.zeros(1)}, {"w": jnp.zeros(1)}
    rule = optimizer(weight_decay=0.0)
    _, state = rule.update({"w": jnp.ones(1)}, rule.init(parameters), parameters)
    for expected in (0.09, 0.0081, 0.00729):  # x 0.9, x 0.9 x 0.1, x 0.9
        _, state = rule.update(zero, state, parameters)
        np.testing.assert_allclose(state.velocity["w"], expected, rtol=1e-6)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (9, 0.1), (10, 0.01), (19, 0.01), (20, 1e-3)])
def test_the_rate_falls_at_its_steps(step, rate):
    schedule = steps.build(steps.Options(steps=(10, 20)), 0.1, 30)
    assert float(schedule(step)) == pytest.approx(rate)


def test_groups_of_a_batch_have_statistics_of_their_own():
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, (6, 2, 4, 5)).astype(np.float32))
    for relu in (False, True):
        norm = BatchNorm(5)
        norm.group = 2
        y = norm(x, relu=relu)
        apart = [BatchNorm(5) for _ in range(3)]
        parts = [one(x[2 * i : 2 * i + 2], relu=relu) for i, one in enumerate(apart)]
        np.testing.assert_allclose(y, jnp.concatenate(parts), atol=1e-6)
        for name in ("mean", "var"):
            mean = np.mean([getattr(one, name)[...] for one in apart], axis=0)
            np.testing.assert_allclose(getattr(norm, name)[...], mean, rtol=1e-5)
    assert np.abs(y - BatchNorm(5)(x, relu=True)).max() > 0.01
