"""Equal blocks as a loop against the same blocks one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import golden_variables, tiny_config
from test_train_step import optimizer, small_batch

from nonlocal_jax.models.build import build_network
from nonlocal_jax.train_step import initial_state, make_train_step


def networks(**overrides):
    plain = tiny_config(**overrides)
    scanned = tiny_config(**overrides, **{"backbone.scan_blocks": True})
    return plain, build_network(plain.model), build_network(scanned.model)


@pytest.mark.parametrize(
    "overrides",
    [
        {"backbone.depth": 50, "backbone.variant": "v1d"},
        {"backbone.depth": 34, "backbone.output_stride": 16, "backbone.frozen_stages": 1},
    ],
)
def test_training_steps_are_the_same(overrides):
    """In float64, with every statistic and momentum: two programs, one meaning."""
    with jax.enable_x64(True):
        config, plain, scanned = networks(dtype="float64", **overrides)
        assert scanned.shapes == plain.shapes and scanned.trainable == plain.trainable
        variables = golden_variables(config, plain)
        variables = {name: value.astype(jnp.float64) for name, value in variables.items()}
        states = []
        for network in (plain, scanned):
            step = make_train_step(network, optimizer(), align_corners=False, auxiliary_weight=0.4)
            state, _ = jax.jit(step)(initial_state(network, variables, optimizer()), small_batch())
            states.append(state)
    changed = 0
    for name, expected in states[0].variables.items():
        np.testing.assert_allclose(states[1].variables[name], expected, rtol=1e-9, atol=1e-12)
        changed += bool((np.asarray(expected) != variables[name]).any())
    assert changed > 50
    momenta = [jax.tree.leaves(state.optimizer) for state in states]
    for actual, expected in zip(momenta[1], momenta[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-11)


def test_images_in_a_padded_batch_keep_their_results():
    config, plain, scanned = networks()
    variables = golden_variables(config, plain)
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 48, 40, 3)), jnp.float32)
    valid = jnp.array([[48, 40], [30, 17]])
    images = jnp.where(np.arange(48)[:, None, None] < valid[:, 0, None, None, None], images, 0)
    logits = []
    for network in (plain, scanned):
        model = network.bind(variables)
        model.eval()
        logits.append(jax.jit(lambda m=model: m(images, valid))())
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5 * np.abs(logits[0]).max())


def test_the_loop_is_there():
    _, _, scanned = networks(**{"backbone.depth": 101})
    model = scanned.bind({k: jnp.zeros(v.shape, v.dtype) for k, v in scanned.shapes.items()})
    text = jax.jit(lambda x: model.backbone(x)["stage3"]).lower(jnp.zeros((1, 32, 32, 3))).as_text()
    # Stem 3; 4 of every stage's first block, 3 of the one that stands for the others.
    assert text.count("stablehlo.convolution") <= 3 + 3 * (4 + 3)
