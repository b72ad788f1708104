"""The concatenation form by sorting, against the direct sum over all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.ops.attention.concatenation import concatenation_attention


def direct(a, b, g, key_valid=None):
    """1/N sum_j ReLU(a_i + b_j) g_j with the matrix of all pairs."""
    valid = jnp.ones(b.shape, bool) if key_valid is None else key_valid
    weights = jnp.where(valid[:, None, :], jax.nn.relu(a[:, :, None] + b[:, None, :]), 0.0)
    count = jnp.maximum(valid.sum(1), 1)[:, None, None].astype(jnp.float32)
    return jnp.einsum("nqk,nkd->nqd", weights, g) / count


def inputs(queries, keys, *, batch=2, features=5, offset=0.0):
    generator = np.random.default_rng(queries)
    a = generator.standard_normal((batch, queries), np.float32) + offset
    b = generator.standard_normal((batch, keys), np.float32) - offset
    g = generator.standard_normal((batch, keys, features), np.float32)
    return [jnp.asarray(x, jnp.float32) for x in (a, b, g)]


def value_and_gradients(function, *arrays):
    def loss(*arrays):
        result = function(*arrays)
        return jnp.sum(jnp.sin(3 * result)), result

    (_, result), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return result, *gradients


def assert_same(arrays, key_valid=None, tolerance=1e-5):
    got = value_and_gradients(lambda *x: concatenation_attention(*x, key_valid=key_valid), *arrays)
    expected = value_and_gradients(lambda *x: direct(*x, key_valid), *arrays)
    for ours, theirs in zip(got, expected, strict=True):
        bound = tolerance * max(float(jnp.abs(theirs).max()), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 1), (1, 7), (300, 211)])
def test_equals_the_direct_sum(queries, keys):
    assert_same(inputs(queries, keys))


def test_padded_keys_count_for_nothing():
    a, b, g = inputs(50, 40)
    key_valid = jnp.arange(40)[None, :] < jnp.array([[23], [40]])
    assert_same((a, b, g), key_valid)
    padded_sum = jax.jit(concatenation_attention)
    garbage = jnp.where(key_valid, 0.0, 1e30)
    clean = padded_sum(a, b, g, key_valid=key_valid)
    dirty = padded_sum(a, b + garbage, g + garbage[..., None], key_valid=key_valid)
    np.testing.assert_array_equal(clean, dirty)
    none = padded_sum(a, b, g, key_valid=jnp.zeros((2, 40), bool))
    np.testing.assert_array_equal(none, jnp.zeros_like(none))


def test_ties_and_zeros_are_where_relu_has_them():
    """At a_i + b_j = 0 both the value and the gradient are zero, as in the direct sum."""
    generator = np.random.default_rng(3)
    a, b = (jnp.asarray(generator.integers(-2, 3, (2, 30)), jnp.float32) for _ in range(2))
    assert_same((a, b, inputs(30, 30)[2]))


@pytest.mark.parametrize("shift", [-10.0, 10.0])
def test_all_or_none_active(shift):
    a, b, g = inputs(20, 30)
    assert_same((a + shift, b, g))


def test_large_opposite_scores_do_not_cancel():
    """a about 1000 and b about -1000: differences of prefix sums of b_j g_j would lose digits."""
    assert_same(inputs(300, 211, offset=1000.0), tolerance=1e-5)


def test_error_stays_small_at_many_positions():
    """N = 32768 against float64, on some queries."""
    a, b, g = inputs(32768, 32768, batch=1, features=4)
    rows = np.arange(0, 32768, 321)
    weights = np.maximum(np.float64(a[0, rows])[:, None] + np.float64(b[0])[None], 0)
    expected = weights @ np.float64(g[0]) / 32768
    got = np.asarray(jax.jit(concatenation_attention)(a, b, g))[0, rows]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_bfloat16_in_and_out():
    arrays = [x.astype(jnp.bfloat16) for x in inputs(64, 64)]
    result = jax.jit(concatenation_attention)(*arrays)
    assert result.dtype == jnp.bfloat16
    expected = direct(*(x.astype(jnp.float32) for x in arrays))
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=2**-8, atol=1e-6)


def test_no_array_of_all_pairs():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 4096), (1, 4096), (1, 4096, 8))]
    function = jax.jit(lambda *x: value_and_gradients(concatenation_attention, *x))
    compiled = function.lower(*shapes).compile()
    assert "4096,4096" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 4096**2 * 4 / 8
