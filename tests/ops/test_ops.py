"""Convolution, resizing, normalising and schedule against independent computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from nonlocal_jax.ops.conv.conv2d import conv2d
from nonlocal_jax.ops.padding import halve, zero_outside
from nonlocal_jax.ops.resize import interpolation_matrix, resize_matrix
from nonlocal_jax.training.compiled_step import learning_rate_schedule
from nonlocal_jax.training.optimizers.sgd import polynomial_schedule, sgd


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
    grad_x, grad_kernel = jax.grad(weighted, (0, 1))(x, kernel)
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


def linear_interpolation(row, target, align_corners):
    """One axis by numpy's own interpolation."""
    source = len(row)
    index = np.arange(target)
    if align_corners:
        position = index * (source - 1) / max(target - 1, 1)
    else:
        position = (index + 0.5) * source / target - 0.5
    return np.interp(position, np.arange(source), row)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("source", "target"), [(5, 17), (17, 5), (1, 4), (4, 1), (6, 6), (64, 512)]
)
def test_interpolation_matrix(source, target, align_corners):
    row = np.random.default_rng(1).standard_normal(source)
    matrix = interpolation_matrix(
        source,
        target,
        source_length=source + 3,
        target_length=target + 2,
        align_corners=align_corners,
    )
    expected = linear_interpolation(row, target, align_corners)
    np.testing.assert_allclose(matrix[:target, :source] @ row, expected, atol=1e-5)
    assert not matrix[target:].any() and not matrix[:, source:].any()


@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_is_one_matrix_per_axis(align_corners):
    x = np.random.default_rng(2).standard_normal((5, 7))
    expected = np.apply_along_axis(linear_interpolation, 0, x, 13, align_corners)
    expected = np.apply_along_axis(linear_interpolation, 1, expected, 9, align_corners)
    out = resize_matrix(5, 13, align_corners) @ x @ resize_matrix(7, 9, align_corners).T
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_padding_helpers():
    valid = jnp.array([[3, 5], [4, 1]])
    np.testing.assert_array_equal(halve(valid), [[2, 3], [2, 1]])
    out = np.asarray(zero_outside(jnp.full((2, 4, 6, 1), jnp.inf), valid))
    assert np.isinf(out[0, :3, :5]).all() and np.isinf(out[1, :4, :1]).all()
    assert (out[0, 3:] == 0).all() and (out[0, :, 5:] == 0).all() and (out[1, :, 1:] == 0).all()


def test_polynomial_schedule():
    schedule = polynomial_schedule(0.01, min_learning_rate=1e-4, power=0.9, total_steps=40_000)
    for step in (0, 1, 20_000, 39_999):
        expected = (0.01 - 1e-4) * (1 - step / 40_000) ** 0.9 + 1e-4
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


@pytest.mark.parametrize(("base", "warmup"), [(0, 0), (16, 0), (16, 5), (0, 5)])
def test_the_learning_rate_of_another_batch(base, warmup):
    """The rows' own by default; else in proportion to the batch, after a rise in equal steps."""
    config = common.base()
    config.batch_size, config.total_steps = 64, 40_000
    config.optimizer.scale_from_batch_size = base
    config.optimizer.warmup_steps = warmup
    schedule = learning_rate_schedule(config)
    for step in (0, 1, 4, 5, 20_000):
        expected = (0.01 - 1e-4) * (1 - step / 40_000) ** 0.9 + 1e-4
        expected *= 4 if base else 1
        if step < warmup:
            expected *= [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6][step]
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)


def test_sgd_decays_weights_before_the_momentum():
    optimizer = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.01)
    parameter, velocity = 2.0, 0.0
    ours = {"x": jnp.array(parameter)}
    state = optimizer.init(ours)
    for gradient in (1.0, -0.5, 0.25):
        velocity = 0.9 * velocity + gradient + 0.01 * parameter
        parameter -= 0.1 * velocity
        updates, state = optimizer.update({"x": jnp.array(gradient)}, state, ours)
        ours = {"x": ours["x"] + updates["x"]}
        np.testing.assert_allclose(ours["x"], parameter, rtol=1e-6)
