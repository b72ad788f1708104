"""The gradient that is written out against JAX's own, of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from nonlocal_jax.ops.batch_norm import normalize_batch, normalize_batch_relu, one_pass_statistics


def written_out(x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    mean, inverse = jnp.mean(x, axes), 1 / jnp.sqrt(jnp.var(x, axes) + 1e-5)
    return normalize_batch(x, *map(jax.lax.stop_gradient, (mean, inverse)), scale, bias)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4), (9, 2)])
def test_it_is_the_gradient_through_mean_and_variance(shape):
    rng = np.random.default_rng(len(shape))
    with jax.enable_x64(True):
        x, grad = (jnp.asarray(rng.normal(3.0, 2.0, shape)) for _ in range(2))
        scale, bias = (jnp.asarray(rng.normal(size=shape[-1])) for _ in range(2))
        results = [jax.vjp(f, x, scale, bias) for f in (written_out, plain.normalize_batch)]
        np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-12)
        for ours_, theirs in zip(results[0][1](grad), results[1][1](grad), strict=True):
            np.testing.assert_allclose(ours_, theirs, atol=1e-11)


def test_gradients_have_the_dtype_of_what_they_are_of():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    ones = jnp.ones(4, jnp.float32)
    y, backward = jax.vjp(lambda x, scale: normalize_batch(x, ones, ones, scale, ones), x, ones)
    assert y.dtype == jnp.float32
    assert [leaf.dtype for leaf in backward(y)] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("off", [0.0, 3.0, -20.0])
def test_one_pass_statistics_are_exact_at_a_mean_of_a_thousand_deviations(off):
    """`off` is how many standard deviations the shift is from the mean."""
    rng = np.random.default_rng(0)
    deviation = np.exp(rng.uniform(-3, 3, 6))
    x = (rng.standard_normal((4, 33, 31, 6)) + 1000) * deviation
    x = x.astype(np.float32).astype(np.float64)
    shift = (1000 + off) * deviation
    mean, var = one_pass_statistics(jnp.asarray(x, jnp.float32), jnp.asarray(shift, jnp.float32))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=2e-6 * (1 + off**2))


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (9, 2)])
def test_the_gradient_through_a_relu_is_that_of_the_definition(shape):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, grad = (jnp.asarray(rng.normal(3.0, 2.0, shape)) for _ in range(2))
        scale, bias = (jnp.asarray(rng.normal(size=shape[-1])) for _ in range(2))

        def ours(x, scale, bias):
            axes = tuple(range(x.ndim - 1))
            mean, inverse = jnp.mean(x, axes), 1 / jnp.sqrt(jnp.var(x, axes) + 1e-5)
            constants = map(jax.lax.stop_gradient, (mean, inverse))
            return normalize_batch_relu(x, *constants, scale, bias, jnp.float64)

        results = [
            jax.vjp(f, x, scale, bias)
            for f in (ours, lambda *arguments: jax.nn.relu(plain.normalize_batch(*arguments)))
        ]
        np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-12)
        for ours_, theirs in zip(results[0][1](grad), results[1][1](grad), strict=True):
            np.testing.assert_allclose(ours_, theirs, atol=1e-11)
