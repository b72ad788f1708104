"""Dilated convolutions by phases against XLA's own, and what a GPU's program is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nonlocal_jax.ops.conv import dilated
from nonlocal_jax.ops.conv.conv2d import conv2d


def plain(x, kernel, dilation):
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("dilation", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 8, 12), (1, 9, 7), (3, 3, 13), (1, 1, 2)])
def test_weight_gradient_by_phases_is_that_of_the_plain_convolution(
    shape, dilation, dtype, tolerance
):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((*shape, 3)), dtype)
        grad = jnp.asarray(rng.standard_normal((*shape, 5)), dtype)
        kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 5)), dtype)
        (expected,) = jax.vjp(lambda k: plain(x, k, dilation), kernel)[1](grad)
        actual = jax.jit(dilated.weight_gradient, static_argnames="dilation")(
            x, grad, kernel, dilation=dilation
        )
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * 10)


def test_phases_hold_every_dth_pixel_image_by_image():
    x = np.arange(2 * 5 * 6).reshape(2, 5, 6, 1).astype(np.float32)
    phases = np.asarray(dilated.to_phases(jnp.asarray(x), 2))
    assert phases.shape == (8, 3, 3, 1)
    np.testing.assert_array_equal(phases[4 + 1, :, :, 0], x[1, 0::2, 1::2, 0])
    np.testing.assert_array_equal(phases[2, :2, :, 0], x[0, 1::2, 0::2, 0])
    assert not phases[2, 2].any()


@pytest.mark.parametrize(("dilation", "stride", "by_phases"), [(2, 1, 1), (4, 1, 1), (2, 2, 0)])
def test_gpus_get_the_weight_gradient_of_a_dilated_convolution_by_phases(
    dilation, stride, by_phases
):
    """Lowered for CUDA, on any machine: how many convolutions go over the phases."""

    def loss(x, kernel):
        return jnp.sum(conv2d(x, kernel, stride=stride, dilation=dilation) ** 2)

    x, kernel = jnp.zeros((2, 64, 64, 8)), jnp.zeros((3, 3, 8, 8))
    exported = jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=["cuda"])(x, kernel)
    phases = f"tensor<{2 * dilation**2}x{64 // dilation}x{64 // dilation}x8xf32>"
    lines = exported.mlir_module().splitlines()
    assert sum("stablehlo.convolution" in x and phases in x for x in lines) == by_phases
