"""Queries and keys of a head give its attention at every position, also in padded batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heads import METHODS, golden_variables, head_of, one_batch, tiny_head

from family_cases import CASES  # isort: skip  # heads has put golden/ on the path
from nonlocal_jax.errors import UserError

RELATIVE = (0.6, 0.35)
SIZES = ((9, 7), (5, 12))
HEADS = {
    "embedded": ("nonlocal", {}),
    "unscaled": ("nonlocal", {"use_scale": False}),
    "gaussian": ("nonlocal", {"mode": "gaussian"}),
    "dot_product": ("nonlocal", {"mode": "dot_product"}),
    "concatenation": ("nonlocal", {"mode": "concatenation"}),
    "pooled": ("nonlocal", {"sub_sample": True}),
    "dnl": ("dnl", {}),
    "da": ("da", {"position_channels": 4}),
}


def row(factors, place, size, key_size):
    """The weights of a place, by the definition; factors are those of one image."""
    query = np.asarray(factors.query, np.float64)[place]
    key = np.asarray(factors.key, np.float64)[: key_size[0], : key_size[1]]
    if factors.kind == "relu":
        weights = np.maximum(key[..., 0] + query[0], 0) / key[..., 0].size
    elif factors.kind == "mean":
        weights = key @ query / key[..., 0].size
    else:
        weights = np.exp(key @ query - (key @ query).max())
        weights /= weights.sum()
    if factors.unary is None:
        return weights
    return (weights + np.asarray(factors.unary)[: key_size[0], : key_size[1]]) / 2


@pytest.mark.parametrize("name", HEADS)
def test_the_map_of_a_position_follows(name):
    method, options = HEADS[name]
    head = head_of(method, {"channels": 8, **options})
    variables = golden_variables(head)
    inputs = [(size, CASES["fcn"].inputs(i, 1, size)) for i, size in enumerate(SIZES)]
    features, valid = one_batch(CASES["fcn"], inputs)
    relative = np.full((len(SIZES), 2), RELATIVE, np.float32)

    @jax.jit
    def run(variables, features, valid):
        model = head.bind_for_inference(variables)
        return model.attention_factors(features, valid), model.attention_map(
            features, relative, valid
        )

    found, maps = run(variables, features, valid)
    assert found.factors.query.dtype == found.factors.key.dtype == jnp.float32
    np.testing.assert_array_equal(found.sizes, SIZES)
    np.testing.assert_array_equal(found.key_sizes, maps.sizes)
    for i, (height, width) in enumerate(SIZES):
        of_image = jax.tree.map(lambda x, i=i: x[i], found.factors)
        place = tuple(int(r * n) for r, n in zip(RELATIVE, (height, width), strict=True))
        key_size = np.asarray(found.key_sizes[i])
        expected = np.asarray(maps.weights[i])[: key_size[0], : key_size[1]]
        weights = row(of_image, place, (height, width), key_size)
        assert weights.max() > 1.01 * weights.mean()
        np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("nonlocal", "dnl", "da")])
def test_heads_of_another_form_refuse(method):
    head = tiny_head(method)
    with pytest.raises(UserError, match="not one product of queries and keys"):
        head.abstract.attention_factors(())
