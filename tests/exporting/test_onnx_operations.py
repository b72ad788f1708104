"""Each primitive as ONNX Runtime computes it, for arrays of several sizes, beside JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from onnx_models import exported, operators, result

from nonlocal_jax.exporting.onnx.step import Unsupported
from nonlocal_jax.ops.blocks import in_blocks
from nonlocal_jax.ops.residual import add_relu

KERNEL = np.linspace(-1, 1, 3 * 2 * 4 * 5, dtype=np.float32).reshape(3, 2, 4, 5)
MATRIX = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def conv(x, **settings):
    settings = {"window_strides": (1, 1), "padding": ((1, 1), (0, 1)), **settings}
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, KERNEL, dimension_numbers=numbers, **settings)


def pool(x, sides):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)


def cut(x, length):
    """Slices that start where numbers in the array say, also beyond its end."""
    start = jnp.round(x[:, 0, 0, 0] * 10).astype(jnp.int32)
    return jax.vmap(lambda x, s: lax.dynamic_slice(x, (s, 0, 1), (length, x.shape[1], 2)))(x, start)


def turns(x):
    """A number of turns that depends on the array."""
    last = jnp.sum(x > 0, dtype=jnp.int32)
    start = jnp.int32(0), x
    return lax.while_loop(lambda s: s[0] < last, lambda s: (s[0] + 3, s[1] * 0.5 + x), start)[1]


def branch(x):
    index = jnp.sum(x > 0, dtype=jnp.int32) % 4 - 1
    return lax.switch(index, [lambda x: x + 1, lambda x: x * 2, lambda x: -x], x)


FUNCTIONS = {
    "arithmetic": lambda x: jnp.exp(x) / (1 + x**2) - jnp.sqrt(jnp.abs(x)) * lax.rsqrt(x * x + 1),
    "rounding": lambda x: jnp.floor(x * 7) + jnp.ceil(x * 5) + jnp.round(x * 3) + jnp.sign(x),
    "relu": lambda x: jax.nn.relu(x),
    "sum and relu": lambda x: add_relu(x, x[:, ::-1]),
    "comparisons": lambda x: jnp.where((x > 0.2) & (x <= 0.5) | (x != x), x, -1.0),
    "chosen truths": lambda x: jnp.where(x > 0, x < 0.5, x > -0.5),
    "not finite": lambda x: jnp.isfinite(1 / jnp.maximum(x, 0)).astype(jnp.float32),
    "clamp": lambda x: jnp.clip(x, -0.25, 0.5),
    "integers": lambda x: (x * 100).astype(jnp.int32) // 7 + (x * 100).astype(jnp.int32) % 5,
    "shifts": lambda x: ((x * 1000).astype(jnp.int32) >> 3) + ((x * 9).astype(jnp.int32) << 2),
    "bytes": lambda x: jnp.where(x > 0, jnp.uint8(3), jnp.uint8(250)),
    "lengths": lambda x: x * (x.shape[1] // 2) + x.shape[2] % 3,
    "reshape": lambda x: x.reshape(x.shape[0], -1, 2, 2).reshape(x.shape),
    "transpose": lambda x: jnp.transpose(x, (2, 0, 3, 1)),
    "repeat": lambda x: jnp.broadcast_to(x[:, None, :, :1], (x.shape[0], 3, *x.shape[1:])),
    "repeat by one axis each": lambda x: (
        jnp.arange(x.shape[2])[None] < jnp.full((x.shape[0], 1), x.shape[1])
    ).reshape(-1),
    "concatenate": lambda x: jnp.concatenate([x, jnp.zeros((*x.shape[:3], 2)), x[..., :1]], -1),
    "stack": lambda x: jnp.stack([x, x * 2, x + 1], axis=2),
    "unstack": lambda x: jnp.unstack(x, axis=3)[1],
    "tile": lambda x: jnp.tile(x, (1, 2, 1, 3)),
    "split": lambda x: jnp.split(x, [1, 3], axis=3)[1],
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, x.shape[1] % 3), (0, 2), (0, 0)), constant_values=2),
    "cut by padding": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 0, 0), (2, -1, 0), (0, 0, 0))),
    "slice": lambda x: x[:, 1::2, : x.shape[2] // 2, ::-1],
    "iota": lambda x: x + jnp.arange(x.shape[2], dtype=jnp.float32)[:, None] + jnp.arange(4.0),
    "sums": lambda x: x.sum((1, 3)) + x.mean((1, 3)) * x.max(2).min((1, 2))[:, None],
    "all and any": lambda x: jnp.all(x > -0.9, 2) & jnp.any(x > 0.5, 2),
    "softmax": lambda x: jax.nn.softmax(x, axis=(1, 2)),
    "argmax": lambda x: jnp.argmax(x, axis=2),
    "cumulative sum": lambda x: jnp.cumsum(x, axis=1),
    "convolution": conv,
    "strided convolution": lambda x: conv(x, window_strides=(2, 3)),
    "dilated convolution": lambda x: conv(x, rhs_dilation=(2, 1), padding=((2, 2), (1, 1))),
    "convolutions": lambda x: jax.nn.relu(conv(x)[..., :4] + 0.5) + x[:, :, :, ::-1],
    "channels as a matrix": lambda x: conv(x) @ np.ones((5, 2), np.float32),
    "max pooling": lambda x: pool(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "max pooling, uneven": lambda x: pool(x, ((0, 0), (0, 1), (2, 0), (0, 0))),
    "matrix": lambda x: x @ MATRIX,
    "products of a batch": lambda x: jnp.einsum("nabc,nabd->ncd", x, x),
    "products of several axes": lambda x: jnp.einsum("nabc,ndbc->nad", x, x),
    "outer product": lambda x: jnp.einsum("nab,ncd->acdbn", x[..., 0], x[..., 1]),
    "attention": lambda x: jax.nn.softmax(jnp.einsum("nabc,ndbc->bnad", x, x)),
    "take": lambda x: jnp.take(x, jnp.array([2, 0, 1, 1]), axis=3),
    "take computed places": lambda x: jnp.take(x, jnp.arange(9) * x.shape[1] // 9, 1, mode="clip"),
    "take beyond the end": lambda x: jnp.take(x, jnp.array([-5, 0, 99]), 2, mode="fill"),
    "take along an axis": lambda x: jnp.take_along_axis(x, (x[:, :, :3] * 3).astype(jnp.int32), 2),
    "rows of pairs": lambda x: x[jnp.arange(x.shape[0]), jnp.arange(x.shape[0]) % x.shape[1]],
    "slices of a batch": lambda x: cut(x, 2),
    "one slice": lambda x: lax.dynamic_slice_in_dim(x, (x[0, 0, 0, 0] * 4).astype(int), 3, 1),
    "replaced slice": lambda x: lax.dynamic_update_slice_in_dim(x, x[:, :1] * 0, x.shape[1] - 1, 1),
    "map": lambda x: lax.map(lambda row: row @ MATRIX + x[:, 0] @ MATRIX, x.swapaxes(0, 1)),
    "scan": lambda x: lax.scan(lambda s, row: (s + row, s.sum()), x[:, 0], x.swapaxes(0, 1))[0],
    "scan back": lambda x: lax.scan(
        lambda s, row: (s * 0.5 + row, s), x[:, 0], x.swapaxes(0, 1), reverse=True
    )[1],
    "rows in blocks": lambda x: in_blocks(lambda rows: rows * 2 + x[:, :1], x, 3),
    "while": turns,
    "switch": branch,
    "platform": lambda x: lax.platform_dependent(x, cuda=jnp.exp, default=jnp.sin),
}  # fmt: skip
SIZES = ((1, 5, 7, 4), (3, 8, 6, 4))


def numbers(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_equals_jax_for_every_size(name):
    function = FUNCTIONS[name]
    model = exported(function, "n,h,w,4", constraints=("h >= 3", "w >= 3"))
    for shape in SIZES:
        x = numbers(shape)
        expected = np.asarray(jax.jit(function)(x))
        found = result(model, x)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_layers_of_images_need_no_transposes_between_them():
    def layers(x):
        for _ in range(3):
            x = jax.nn.relu(conv(x, padding=((1, 1), (0, 1)))[..., :4] + np.ones(4, np.float32))
            x = pool(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return x

    found = operators(exported(layers, "n,h,w,4"))
    assert found.count("Transpose") == 2 and found.count("Conv") == 3 and found.count("Relu") == 3


def test_rows_in_blocks_are_not_copied_in_each_turn():
    model = exported(lambda x: in_blocks(jnp.exp, x, 3), "n,h,w,4")
    (loop,) = [node for node in model.graph.node if node.op_type == "Loop"]
    body = loop.attribute[0].g
    assert "Concat" not in [node.op_type for node in body.node]
    assert not [value for value in body.input if len(value.type.tensor_type.shape.dim) > 1]


def test_what_nothing_reads_is_left_out():
    found = operators(exported(lambda x: (jnp.exp(x), x + 1)[1], "n,4"))
    assert found == ["Add", "Identity"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: lax.sort(x), "sort"),
        (lambda x: lax.pad(x, 0.0, ((0, 0, 1), (0, 0, 0))), "pad"),
        (lambda x: lax.digamma(x), "digamma"),
        (lambda x: lax.round(x), r"round \(halves away from zero\)"),
    ],
)
def test_what_has_no_counterpart_is_named(function, name):
    with pytest.raises(Unsupported, match=name):
        exported(function, "n,4")
