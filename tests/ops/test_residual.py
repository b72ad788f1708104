"""The end of a residual block: exact, and computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import lower_stage4, tiny_config

from nonlocal_jax.models.network import build_network
from nonlocal_jax.ops.residual import add_relu
from nonlocal_jax.runtime.compilation import compiler_options


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_sum_is_exact_and_so_is_its_gradient(dtype):
    rng = np.random.default_rng(0)
    y, x = (jnp.asarray(rng.standard_normal((4, 50)) * 10, dtype) for _ in range(2))
    y, x = y.at[0].set(-x[0]), x.at[1].set(0)  # sums that are zero, and inputs that are
    y = y.at[2, 0].set(jnp.inf).at[2, 1].set(-jnp.inf).at[2, 2].set(jnp.nan)
    result, expected = add_relu(y, x), jnp.where(y + x < 0, 0, y + x)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(jnp.float32), expected.astype(jnp.float32))

    weights = jnp.asarray(rng.standard_normal(x.shape), dtype)
    for gradient in jax.grad(lambda y, x: jnp.sum(add_relu(y, x) * weights), (0, 1))(y, x):
        expected = jnp.where(y + x > 0, weights, 0)
        np.testing.assert_array_equal(gradient.astype(jnp.float32), expected.astype(jnp.float32))


@pytest.mark.cpu("how its compiler fuses")
def test_a_deeper_network_takes_no_more_memory_in_inference():
    def temporaries(depth):
        network = build_network(tiny_config(**{"backbone.depth": depth}).model)
        compiled = lower_stage4(network, 257).compile(compiler_options("cpu"))
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(101) < 1.2 * temporaries(50)
