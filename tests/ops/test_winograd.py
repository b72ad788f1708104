"""Winograd's convolutions and gradients against XLA's direct ones in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.ops.conv import winograd
from nonlocal_jax.ops.conv.conv2d import conv2d

pytestmark = pytest.mark.cpu("other platforms have direct convolutions")
SHAPES = [
    (2, 13, 18, 5, 7),
    (1, 17, 9, 4, 3),
    (3, 33, 20, 6, 2),
    (1, 3, 2, 3, 4),
    (1, 40, 40, 8, 8),
]


def arrays(batch, height, width, inputs, outputs, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (
        (batch, height, width, inputs),
        (3, 3, inputs, outputs),
        (batch, height, width, outputs),
    )
    return [rng.standard_normal(shape) for shape in shapes]


def direct(x, kernel, dilation):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(dilation, dilation)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def assert_near(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("block_bytes", [winograd.BLOCK_BYTES, 40_000])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_direct_convolution(shape, dilation, block_bytes, monkeypatch):
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block_bytes)
    x, kernel, grad = arrays(*shape)
    with jax.enable_x64(True):
        expected = direct(x, kernel, dilation)
        (expected_gradient,) = jax.vjp(lambda k: direct(x, k, dilation), kernel)[1](grad)
        exact = winograd.winograd_conv2d(jnp.array(x), jnp.array(kernel), dilation)
        assert_near(exact, expected, 1e-13)
    x, kernel, grad = (jnp.array(array, jnp.float32) for array in (x, kernel, grad))
    assert_near(winograd.winograd_conv2d(x, kernel, dilation), expected, 4e-6)
    gradient = winograd.winograd_weight_gradient(x, grad, dilation)
    assert_near(gradient, expected_gradient, 4e-6)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_the_network_s_convolution_takes_it_for_many_channels(dilation):
    x, kernel, grad = (jnp.array(a, jnp.float32) for a in arrays(1, 33, 34, 64, 72))

    def gradients(function):
        y, pull_back = jax.vjp(function, x, kernel)
        return y, *pull_back(grad)

    def ours(x, kernel):
        return conv2d(x, kernel, dilation=dilation)

    assert "stablehlo.convolution" not in jax.jit(ours).lower(x, kernel).as_text()
    expected = gradients(lambda x, kernel: direct(x, kernel, dilation))
    for actual, wanted in zip(gradients(ours), expected, strict=True):
        assert_near(actual, wanted, 1e-5)
    with jax.default_matmul_precision("highest"):
        assert "stablehlo.convolution" in jax.jit(ours).lower(x, kernel).as_text()
