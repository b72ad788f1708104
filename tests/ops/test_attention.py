"""Softmax and dot-product attention: equal to the direct formulas, in O(N) memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device import ON_GPU
from plain import SCALE, naive_softmax, value_and_gradients

from nonlocal_jax.ops.attention import chunked
from nonlocal_jax.ops.attention.dot_product import dot_product_attention
from nonlocal_jax.ops.attention.softmax import softmax_attention


def naive_dot_product(query, key, value, key_valid):
    weights = jnp.einsum("nqc,nkc->nqk", query, key) * key_valid[:, None, :].astype(jnp.float32)
    return (
        jnp.einsum("nqk,nkd->nqd", weights, value)
        / key_valid.sum(1).astype(jnp.float32)[:, None, None]
    )


def inputs(queries, keys, *, batch=2, channels=16, values=24, seed=0):
    shapes = [(batch, queries, channels), (batch, keys, channels), (batch, keys, values)]
    random_keys = jax.random.split(jax.random.key(seed), 3)
    return [jax.random.normal(k, shape) for k, shape in zip(random_keys, shapes, strict=True)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 queries at most, so that small arrays take several."""
    monkeypatch.setattr(chunked, "MIN_CHUNK", 8)
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 0)


@pytest.mark.parametrize(
    ("queries", "masked"), [(1, False), (8, True), (9, False), (40, True), (67, True)]
)
def test_softmax_in_chunks_equals_the_direct_formula(small_chunks, queries, masked):
    arrays = inputs(queries, 53)
    key_valid = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 53)) if masked else None
    got = value_and_gradients(partial(softmax_attention, scale=SCALE, key_valid=key_valid), *arrays)
    expected = value_and_gradients(lambda *a: naive_softmax(*a, key_valid), *arrays)
    for ours, direct in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, direct, rtol=0, atol=3e-6)


def test_each_chunk_holds_every_so_manyth_query(small_chunks):
    """A query axis sharded over devices is so in equal parts in every chunk."""
    chunks = chunked._interleaved_chunks(jnp.arange(10.0)[None, :, None], 3)
    expected = [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 0]]
    np.testing.assert_array_equal(chunks[:, 0, :, 0], expected)


@pytest.mark.parametrize("function", [softmax_attention, dot_product_attention])
def test_garbage_in_invalid_keys_has_no_influence(small_chunks, function):
    query, key, value = inputs(20, 30)
    key_valid = jnp.arange(30)[None, :] < jnp.array([[17], [30]])
    garbage = jnp.where(key_valid[..., None], 0.0, 1e30)
    clean = value_and_gradients(partial(function, key_valid=key_valid), query, key, value)
    dirty = value_and_gradients(
        partial(function, key_valid=key_valid), query, key + garbage, value + garbage
    )
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("function", [softmax_attention, dot_product_attention])
def test_without_valid_keys_the_sum_is_zero(function):
    none_valid = jnp.zeros((2, 7), bool)
    results = value_and_gradients(partial(function, key_valid=none_valid), *inputs(5, 7))
    for array in results:
        np.testing.assert_array_equal(array, jnp.zeros_like(array))


def test_large_logits_do_not_overflow():
    query, key, value = inputs(12, 12)
    result = softmax_attention(1e4 * query, key, value)
    best = jnp.argmax(jnp.einsum("nqc,nkc->nqk", query, key), axis=-1)
    np.testing.assert_allclose(result, jnp.take_along_axis(value, best[..., None], 1), atol=1e-5)


def test_bfloat16_inputs_are_summed_in_float32():
    """Equal weights on 8192 keys: a bfloat16 sum would stop growing at 256."""
    zeros = jnp.zeros((1, 4, 16), jnp.bfloat16)
    key = jnp.zeros((1, 8192, 16), jnp.bfloat16)
    value = jnp.linspace(0, 2, 8192).astype(jnp.bfloat16)[None, :, None]
    result = softmax_attention(zeros, key, value)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(result.astype(jnp.float32), 1.0, rtol=2**-8)
    ones = jnp.ones((1, 4, 16), jnp.bfloat16)
    mean = dot_product_attention(ones, key + ones[:, :1], value)
    assert mean.dtype == jnp.bfloat16
    np.testing.assert_allclose(mean.astype(jnp.float32), 16.0, rtol=2**-8)


def test_bfloat16_softmax_is_float32_inside():
    """Logits apart by less than bfloat16's spacing still weigh differently."""
    query, key, value = (a.astype(jnp.bfloat16) for a in inputs(33, 65, channels=64))
    exact = naive_softmax(*(a.astype(jnp.float32) for a in (query, key, value)))
    got = softmax_attention(query, key, value, scale=SCALE).astype(jnp.float32)
    np.testing.assert_allclose(got, exact, rtol=0, atol=2**-7 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("length", [8192, 8209])
def test_memory_is_far_under_the_matrix_of_all_pairs(length):
    """Temporaries of the compiled value and gradients, in float32, against N x N x 4 bytes."""
    shape = jax.ShapeDtypeStruct((1, length, 64), jnp.float32)
    function = jax.jit(partial(value_and_gradients, softmax_attention))
    compiled = function.lower(shape, shape, shape).compile()
    # One chunk's logits, weights and their gradients, and a few arrays of the inputs' size; a GPU
    # holds one chunk more.
    bound = (6 if ON_GPU else 4) * chunked.CHUNK_BYTES + 12 * length * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < bound < length**2 * 4 / 2
    assert f"{length},{length}" not in compiled.as_text()


def test_dot_product_equals_the_direct_formula():
    arrays = inputs(40, 53)
    key_valid = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 53))
    got = value_and_gradients(partial(dot_product_attention, key_valid=key_valid), *arrays)
    expected = value_and_gradients(lambda *a: naive_dot_product(*a, key_valid), *arrays)
    for ours, direct in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, direct, rtol=0, atol=3e-6)


@pytest.mark.devices(8)
def test_sharded_queries_stay_on_their_devices(small_chunks):
    """With the query axis over eight devices, each computes its own rows: nothing is gathered."""
    mesh = jax.make_mesh((8,), ("spatial",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P(None, "spatial"))
    whole = jax.NamedSharding(mesh, jax.P())
    query, key, value = inputs(128, 53)
    function = jax.jit(
        partial(softmax_attention, scale=SCALE),
        in_shardings=(sharded, whole, whole),
        out_shardings=sharded,
    )
    assert "all-gather" not in function.lower(query, key, value).compile().as_text()
    result = function(query, key, value)
    np.testing.assert_allclose(result, naive_softmax(query, key, value), rtol=0, atol=3e-6)
