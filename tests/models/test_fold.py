"""A network without batch norms is the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import tiny_config

from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network


@pytest.mark.parametrize(
    ("variant", "mode", "platform"),
    [
        ("v1c", "embedded_gaussian", "gpu"),
        ("v1c", "dot_product", "cpu"),
        ("v1d", "embedded_gaussian", "cpu"),
        ("v1d", "dot_product", "gpu"),
    ],
)
def test_folding_changes_nothing_but_the_norms(variant, mode, platform):
    config = tiny_config(
        **{"backbone.variant": variant, "decode_head.mode": mode, "auxiliary_head.loss_weight": 0.0}
    )
    network = build_network(config.model)
    rng = np.random.default_rng(0)
    variables = {
        name: (
            rng.uniform(0.5, 2, leaf.shape)
            if name.endswith("/var")
            else rng.normal(size=leaf.shape)
        )
        / (np.sqrt(np.prod(leaf.shape[:-1])) if name.endswith("/kernel") else 1)
        for name, leaf in network.shapes.items()
    }
    variables = {name: value.astype(np.float32) for name, value in variables.items()}
    lean, folded = fold(network, variables, platform=platform)
    assert not any("norm" in name for name in folded) and set(folded) == set(lean.shapes)

    def logits_of(network, variables, *inputs):
        def logits(variables, *inputs):
            return network.bind_for_inference(variables)(*inputs)

        return jax.jit(logits)(variables, *inputs)

    images = jnp.asarray(rng.normal(size=(2, 41, 57, 3)), jnp.float32)
    sizes = jnp.array([[41, 57], [33, 40]])
    for valid in (None, sizes):
        expected = logits_of(network, variables, images, valid)
        logits = logits_of(lean, folded, images, valid)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
