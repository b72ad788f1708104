"""Training against the PyTorch reference's stored steps (golden/make_model.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device import ON_GPU
from networks import (
    GOLDEN,
    assert_close,
    fingerprint,
    golden_batch,
    golden_variables,
    labels,
    tiny_config,
)
from steps import optimizer, train_step

from nonlocal_jax.checkpoints.pytorch import rules
from nonlocal_jax.models.network import build_network
from nonlocal_jax.ops import normalize
from nonlocal_jax.training.step import initial_state

STEPS = 10
ROWS = {"512": ({}, (48, 56)), "769": ({"align_corners": True}, (49, 57))}


def torch_names(network):
    entries = rules.torch_entries(network.shapes, network.torch_keys)
    return {name: (entry.key, entry.layout) for name, entry in entries.items()}


@pytest.mark.parametrize("row", ROWS)
def test_ten_steps_equal_the_references(row, monkeypatch):
    """In float64: in float32 the reference itself strays by 1% from its own float64 gradients."""
    golden = np.load(GOLDEN / "training.npz")
    with jax.enable_x64(True):
        check_ten_steps(row, golden, monkeypatch)


def check_ten_steps(row, golden, monkeypatch):
    overrides, size = ROWS[row]
    config = tiny_config(**overrides, dtype="float64")
    network = build_network(config.model)
    # The golden images are normalised already.
    monkeypatch.setattr(
        "nonlocal_jax.training.tasks.segmentation.normalize", lambda image, _: image
    )
    variables = golden_variables(config, network)
    variables = {name: value.astype(jnp.float64) for name, value in variables.items()}
    state = initial_state(network, variables, optimizer())
    first = state
    jitted = train_step(network, align_corners=config.model.align_corners)
    history = []
    for t in range(STEPS):
        state, metrics = jitted(state, golden_batch(t, size))
        history.append(metrics)
        if t == 0:
            check_gradients(config, network, first, state, golden, row)
    for ours, theirs in {
        "loss": "loss",
        "loss_decode": "decode.loss_ce",
        "loss_auxiliary": "aux.loss_ce",
    }.items():
        expected = golden[f"{row}/metric/{theirs}"]
        np.testing.assert_allclose([m[ours] for m in history], expected, rtol=1e-7)
    expected = golden[f"{row}/metric/decode.acc_seg"] / 100
    np.testing.assert_allclose([m["accuracy"] for m in history], expected, atol=1e-3)
    for name, (key, layout) in torch_names(network).items():
        value = rules.to_torch(np.asarray(state.variables[name]), layout)
        assert_close(fingerprint(key, value), golden[f"{row}/after/{key}"], 1e-6)


def check_gradients(config, network, before, after, golden, row):
    """The momentum after one step is the gradient and the decayed parameter."""
    (momentum,) = [
        leaf
        for leaf in jax.tree.leaves(after.optimizer, is_leaf=lambda x: isinstance(x, dict))
        if isinstance(leaf, dict)
    ]
    for name, (key, layout) in torch_names(network).items():
        if name in network.trainable:
            gradient = np.asarray(momentum[name]) - 5e-4 * np.asarray(before.parameters[name])
            actual = fingerprint(key, rules.to_torch(gradient, layout))
            expected = golden[f"{row}/gradient/{key}"]
            # The softmax does not see phi's bias, nor the batch norm g's: their gradients are 0.
            np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-10)


def small_batch(n=4, size=(33, 33)):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (n, *size, 3), dtype=np.uint8)),
        "label": jnp.asarray(labels(5, (n, *size))),
        "size": jnp.asarray([size] * n, jnp.int32),
    }


@pytest.fixture(scope="module")
def small():
    """A network, its variables, and its step."""
    config = tiny_config(**{"backbone.depth": 18})
    network = build_network(config.model)
    return network, golden_variables(config, network), train_step(network)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counter(small):
    network, variables, step = small
    state = initial_state(network, variables, optimizer())
    poisoned = {**variables, "decode_head/classifier/bias": jnp.full(7, jnp.nan)}
    bad = initial_state(network, poisoned, optimizer())
    after, metrics = step(bad, small_batch())
    assert not metrics["finite"] and after.step == 1
    jax.tree.map(np.testing.assert_array_equal, after._replace(step=bad.step), bad)
    _, metrics = step(state, small_batch())
    assert metrics["finite"]


def test_a_running_variance_that_overflows_is_not_finite(small):
    network, variables, step = small
    huge = {
        **variables,
        "backbone/stem/0/conv/kernel": 1e20 * variables["backbone/stem/0/conv/kernel"],
    }
    before = initial_state(network, huge, optimizer())
    after, metrics = step(before, small_batch())
    # A GPU's variance is a difference of two sums, which is NaN then, and so is the loss.
    assert np.isfinite(metrics["loss"]) or ON_GPU
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, after._replace(step=before.step), before)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    # With frozen statistics the parts of a batch do not see each other.
    config = tiny_config(**{"backbone.depth": 18, "backbone.frozen_stages": 4})
    network = build_network(config.model)
    variables = golden_variables(config, network)
    states = []
    for parts in (1, 2):
        batch = small_batch(n=2)
        # The same image twice: the heads' batch statistics are those of either part.
        batch = {k: jnp.concatenate([v[:1], v[:1]]) for k, v in batch.items()}
        state = initial_state(network, variables, optimizer())
        states.append(train_step(network, accumulate_steps=parts)(state, batch)[0])
    for name, value in states[0].parameters.items():
        assert_close(states[1].parameters[name], np.asarray(value), 1e-5)


def test_padding_is_zero_after_normalisation():
    image = jnp.full((1, 4, 5, 3), 200, jnp.uint8)
    out = normalize.normalize(image, jnp.array([[3, 2]]))
    assert np.all(np.asarray(out)[0, 3:] == 0) and np.all(np.asarray(out)[0, :, 2:] == 0)
    expected = (200 - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(out[0, 2, 1], expected, rtol=1e-6)
