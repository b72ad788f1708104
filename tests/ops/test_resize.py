"""Resizing against numpy's interpolation."""

import numpy as np
import pytest

from nonlocal_jax.ops.resize import interpolation_matrix, resize_matrix


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
