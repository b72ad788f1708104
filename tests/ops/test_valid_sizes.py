"""Sizes of images in padded batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.ops.padding import at_stride, zero_outside


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_sizes_in_a_feature_map_round_up(stride):
    valid = jnp.array([[3, 5], [4, 1], [16, 17]])
    expected = np.ceil(np.array(valid) / stride)
    np.testing.assert_array_equal(at_stride(valid, stride), expected)
    assert at_stride(None, stride) is None


def test_what_lies_outside_is_zero_whatever_it_was():
    valid = jnp.array([[3, 5], [4, 1]])
    out = np.asarray(zero_outside(jnp.full((2, 4, 6, 1), jnp.inf), valid))
    assert np.isinf(out[0, :3, :5]).all() and np.isinf(out[1, :4, :1]).all()
    assert (out[0, 3:] == 0).all() and (out[0, :, 5:] == 0).all() and (out[1, :, 1:] == 0).all()
