"""The fused kernels, as far as a machine without accelerators can run them.

Pallas's TPU kernel runs in interpret mode. cuDNN's needs a GPU: its calls are looked at instead.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType

from nonlocal_jax.models.non_local import NonLocal2d
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.attention import cudnn, softmax
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.runtime import sharding


def inputs(queries, keys, *, batch=2, channels=16, values=24):
    shapes = [(batch, queries, channels), (batch, keys, channels), (batch, keys, values)]
    random_keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(k, shape) for k, shape in zip(random_keys, shapes, strict=True)]


def value_and_gradients(implementation, key_valid, *arrays):
    def loss(*arrays):
        result = softmax_attention(
            *arrays, scale=0.25, key_valid=key_valid, implementation=implementation
        )
        return jnp.sum(jnp.sin(result)), result

    (_, result), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return result, *gradients


def assert_pallas_equals_chunks(arrays, key_valid):
    expected = value_and_gradients("chunked", key_valid, *arrays)
    with pltpu.force_tpu_interpret_mode():
        got = value_and_gradients("pallas", key_valid, *arrays)
    for ours, chunked in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, chunked, rtol=0, atol=1e-5)


@pytest.mark.cpu("the TPU's kernel in interpret mode")
@pytest.mark.parametrize(("queries", "keys"), [(40, 53), (600, 140)])
def test_pallas_equals_chunks(queries, keys):
    """Lengths of no whole block, and other channels in the values than in the keys."""
    assert_pallas_equals_chunks(inputs(queries, keys), None)


@pytest.mark.cpu("the TPU's kernel in interpret mode")
def test_pallas_leaves_out_invalid_keys():
    key_valid = jnp.arange(53)[None, :] < jnp.array([[17], [0]])
    assert_pallas_equals_chunks(inputs(40, 53), key_valid)


@pytest.mark.devices(4)
@pytest.mark.cpu("the TPU's kernel in interpret mode")
@pytest.mark.parametrize("batch", [4, 3])
def test_pallas_is_split_over_the_mesh_in_context(batch):
    """Images over `data`, queries over `spatial`; three images don't split, 41 queries neither."""
    axes = ("data", "fsdp", "spatial")
    mesh = jax.make_mesh((2, 1, 2), axes, axis_types=(AxisType.Auto,) * 3)
    arrays = inputs(41, 53, batch=batch)
    key_valid = jax.random.bernoulli(jax.random.key(1), 0.6, (batch, 53))
    with jax.set_mesh(mesh):
        assert_pallas_equals_chunks(arrays, key_valid)


@pytest.mark.compiler
@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 1), (2, 1, 2)], ids=str)
def test_pallas_compiles_for_a_slice(monkeypatch, sizes):
    """For four described chips, none of which is here: the block, its gradient, and the kernels."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    data, fsdp, spatial = sizes
    mesh = sharding.make_mesh(data=data, fsdp=fsdp, spatial=spatial, devices=topology.devices)
    block = NonLocal2d(16, implementation="pallas", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graph, state = nnx.split(block)
    shape = (4, 25, 24, 16)  # rows that do not divide

    def loss(state, x):
        y = nnx.merge(graph, state, copy=True)(layout.split(x))
        return jnp.sum(y.astype(jnp.float32))

    with jax.set_mesh(mesh):
        place = sharding.image_sharding(mesh, shape)
        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        variables = jax.tree.map(
            lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=sharding.replicated(mesh)),
            state,
        )
        program = jax.jit(jax.grad(loss, 1)).lower(variables, x).compile().as_text()
    assert 'custom_call_target="tpu_custom_call"' in program
    assert "600,600" not in program


def test_cudnn_masks_by_length_with_valid_keys_first(monkeypatch):
    arrays = inputs(12, 20, values=16)
    key_valid = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 20))
    cudnn = jax.nn.dot_product_attention

    def plain(*arrays, implementation, **settings):
        assert implementation == "cudnn"
        return cudnn(*arrays, implementation="xla", **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    expected = value_and_gradients("chunked", key_valid, *arrays)
    got = value_and_gradients("cudnn", key_valid, *arrays)
    for ours, chunked in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, chunked, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("platform", "dtype", "expected"),
    [("cpu", jnp.bfloat16, "chunked"), ("tpu", jnp.float32, "chunked")],
)
def test_auto_takes_chunks_where_no_kernel_fits(monkeypatch, platform, dtype, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    query = jnp.zeros((1, 4, 8), dtype)
    assert softmax._choose(query, query) == expected


@pytest.mark.devices(8)
def test_auto_takes_pallas_on_tpus_if_it_can_be_split(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    query = jnp.zeros((1, 4, 8), jnp.bfloat16)
    assert softmax._choose(query, query) == "chunked"  # eight devices, no mesh
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))):
        assert softmax._choose(query, query) == "pallas"


@pytest.mark.parametrize(
    ("dtype", "channels", "values", "capability", "supported"),
    [
        (jnp.bfloat16, 256, 256, "9.0", True),
        (jnp.bfloat16, 256, 256, "8.0", False),
        (jnp.bfloat16, 128, 128, "8.0", True),
        (jnp.float32, 128, 128, "9.0", False),
        (jnp.float16, 512, 256, "9.0", False),
        (jnp.float16, 20, 20, "9.0", False),
    ],
)
def test_what_cudnn_supports(monkeypatch, dtype, channels, values, capability, supported):
    class Device:
        compute_capability = capability

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    query, value = jnp.zeros((1, 4, channels), dtype), jnp.zeros((1, 4, values), dtype)
    assert cudnn.cudnn_supports(query, value) == supported


def test_refuses_an_unknown_implementation():
    with pytest.raises(ValueError, match="'flash' is none of auto, chunked"):
        softmax_attention(*inputs(4, 4), implementation="flash")
