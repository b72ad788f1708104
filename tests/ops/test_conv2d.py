"""The convolution and its gradients against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.ops.conv.conv2d import conv2d


def direct_conv(x, kernel, stride, dilation):
    """The definition, in float64 NumPy."""
    size = kernel.shape[0]
    pad = dilation * (size // 2)
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    reach = dilation * (size - 1) + 1
    rows = range(0, x.shape[1] - reach + 1, stride)
    columns = range(0, x.shape[2] - reach + 1, stride)
    out = np.zeros((x.shape[0], len(rows), len(columns), kernel.shape[3]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = x[:, row : row + reach : dilation, column : column + reach : dilation]
            out[:, i, j] = np.einsum("nhwi,hwio->no", window, kernel)
    return out


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (1, 4), (2, 2)])
@pytest.mark.parametrize("shape", [(2, 9, 7), (1, 8, 12)])
def test_convolution_and_its_gradients(size, stride, dilation, shape):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*shape, 3)).astype(np.float32)
    kernel = rng.standard_normal((size, size, 3, 5)).astype(np.float32)
    expected = direct_conv(x, kernel, stride, dilation)
    weights = rng.standard_normal(expected.shape).astype(np.float32)

    def weighted(x, kernel):
        return jnp.sum(conv2d(x, kernel, stride=stride, dilation=dilation) * weights)

    out = conv2d(jnp.asarray(x), jnp.asarray(kernel), stride=stride, dilation=dilation)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    grad_x, grad_kernel = jax.grad(weighted, (0, 1))(jnp.asarray(x), jnp.asarray(kernel))
    # The convolution is bilinear: the gradients are its values at unit vectors.
    for index in [(0, 0, 0, 0), (0, 4, 3, 2), (-1, -1, -1, 1)]:
        unit = np.zeros_like(x)
        unit[index] = 1
        expected = np.sum(direct_conv(unit, kernel, stride, dilation) * weights)
        np.testing.assert_allclose(grad_x[index], expected, rtol=1e-4, atol=1e-4)
    for index in [(0, 0, 0, 0), (-1, 0, 2, 4), (size // 2, -1, 1, 3)]:
        unit = np.zeros_like(kernel)
        unit[index] = 1
        expected = np.sum(direct_conv(x, unit, stride, dilation) * weights)
        np.testing.assert_allclose(grad_kernel[index], expected, rtol=1e-4, atol=1e-4)
