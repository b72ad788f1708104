"""Convolutions and pooling of clips, with their gradients, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nonlocal_jax.ops.conv.conv3d import conv3d
from nonlocal_jax.ops.max_pool import gathered_gradient, largest_and_place, max_pool, pool_pairs


def native(x, kernel, stride, time_stride):
    around = [(size // 2, size // 2) for size in kernel.shape[:3]]
    strides = (time_stride, stride, stride)
    return lax.conv_general_dilated(
        x, kernel, strides, around, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


@pytest.mark.parametrize(
    ("size", "stride", "time_stride"),
    [
        *(((5, 7), 2, 1), ((5, 7), 2, 2), ((1, 7), 2, 2), ((1, 3), 1, 1), ((1, 3), 2, 1)),
        *(((3, 1), 1, 1), ((3, 1), 2, 2), ((5, 1), 1, 1), ((1, 1), 1, 1), ((1, 1), 2, 1)),
        ((3, 3), 1, 1),
    ],
)
def test_convolution_and_its_gradients(size, stride, time_stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 5, 9, 8, 3)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((size[0], size[1], size[1], 3, 4)), jnp.float32)

    @jax.jit
    def both(x, kernel):
        expected, expected_vjp = jax.vjp(lambda *a: native(*a, stride, time_stride), x, kernel)
        y, vjp = jax.vjp(
            lambda x, k: conv3d(x, k, stride=stride, time_stride=time_stride), x, kernel
        )
        grad = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(expected.shape)
        return (y, *vjp(grad)), (expected, *expected_vjp(grad))

    for ours, expected in zip(*both(x, kernel), strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (3, 3), (4, 4)])
def test_max_pool_and_its_gradients(padding, size):
    rng = np.random.default_rng(0)
    # Whole numbers, so that many windows hold equals.
    x = jnp.asarray(rng.integers(-2, 3, (2, *size, 3)), jnp.float32)
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))

    def plain(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)

    expected, vjp = jax.vjp(plain, x)
    y, ours = jax.vjp(lambda x: max_pool(x, padding), x)
    np.testing.assert_array_equal(y, expected)
    assert y.shape[1:3] == tuple((s + 2 * padding - 1) // 2 for s in size)
    grad = jnp.asarray(rng.standard_normal(y.shape), jnp.float32)
    np.testing.assert_allclose(ours(grad)[0], vjp(grad)[0], atol=1e-6)
    largest, place = largest_and_place(x, padding)
    np.testing.assert_array_equal(largest, expected)
    gathered = gathered_gradient(place, grad, x.shape, padding)
    np.testing.assert_allclose(gathered, vjp(grad)[0], atol=1e-6)


def test_the_largest_of_a_window_with_nan_is_nan():
    x = np.zeros((1, 5, 5, 1), np.float32)
    x[0, 1, 1] = np.nan
    x[0, 2, 2] = 1.0
    largest, _ = largest_and_place(jnp.asarray(x))
    np.testing.assert_array_equal(np.isnan(largest), np.isnan(max_pool(jnp.asarray(x))))
    assert np.isnan(largest).sum() == 4


@pytest.mark.parametrize("frames", [2, 5])
def test_pool_pairs_leaves_an_odd_one_out(frames):
    x = np.random.default_rng(0).standard_normal((1, frames, 2, 3, 4)).astype(np.float32)
    expected = np.stack([x[:, i : i + 2].max(1) for i in range(0, frames - 1, 2)], 1)
    np.testing.assert_array_equal(pool_pairs(jnp.asarray(x), 1), expected)
