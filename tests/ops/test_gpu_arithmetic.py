"""What the default precision does, against float64: on a GPU TF32 and bfloat16, on a CPU nothing.

Everywhere else in the suite a GPU computes at precision "highest" (see conftest.py). Here is what
users run, and what it may be off by: `BOUNDS`, as a share of the largest value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from device import ON_GPU
from networks import golden_variables, tiny_config
from plain import naive_softmax, value_and_gradients

from nonlocal_jax.config import files, schema
from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network
from nonlocal_jax.ops.attention.softmax import softmax_attention
from nonlocal_jax.ops.conv.conv2d import conv2d
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.losses.cross_entropy import segmentation_loss

BOUNDS = {"float32": 1e-3, "bfloat16": 2e-2, "bfloat16 network": 2e-2, "exact": 4e-6}
if ON_GPU:
    # TF32 keeps 10 bits of a factor, and may cut the others off: a product is off by up to 2^-9.
    # bfloat16 keeps 7 bits of every array; a network of fifty layers rounds as often.
    BOUNDS |= {"float32": 2e-3, "bfloat16 network": 4e-2}
LONG = pytest.mark.slow if ON_GPU else pytest.mark.soak  # a CPU's rounding is told by other tests


@pytest.fixture(autouse=True)
def default_precision():
    with jax.default_matmul_precision("default"):
        yield


def assert_within(actual, expected, kind):
    """None of the values is off by more than the bound's share of the largest, and none is NaN."""
    actual, expected = (np.asarray(x, np.float64) for x in (actual, expected))
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert error < BOUNDS[kind], f"{error:.2e} of the largest"


def direct(x, kernel, stride, dilation):
    padding = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 1, 4)],
)
def test_convolutions_and_their_gradients(size, stride, dilation, dtype):
    """64 channels and odd sizes; what bfloat16 rounds before it multiplies, the reference does."""
    rng = np.random.default_rng(0)
    shapes = (2, 33, 34, 64), (size, size, 64, 72)
    x, kernel = (np.asarray(jnp.asarray(rng.standard_normal(s), dtype), np.float64) for s in shapes)
    with jax.enable_x64(True):
        expected, pull_back = jax.vjp(lambda *a: direct(*a, stride, dilation), x, kernel)
        grad = np.asarray(jnp.asarray(rng.standard_normal(expected.shape), dtype), np.float64)
        expected = jax.device_get((expected, *pull_back(jnp.asarray(grad))))
    arrays = [jnp.asarray(a, dtype) for a in (x, kernel, grad)]

    @jax.jit
    def ours(x, kernel, grad):
        y, back = jax.vjp(lambda *a: conv2d(*a, stride=stride, dilation=dilation), x, kernel)
        return y, *back(grad)

    for actual, wanted in zip(ours(*arrays), expected, strict=True):
        assert_within(actual.astype(jnp.float32), wanted, dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_by_the_kernel_that_auto_takes(dtype, masked):
    """In bfloat16, on a GPU, cuDNN's own, forward and backward; 256 channels as the rows have."""
    rng = np.random.default_rng(1)
    rounded = [jnp.asarray(rng.standard_normal((2, n, 256)), dtype) for n in (300, 211, 211)]
    valid = jnp.asarray(rng.random((2, 211)) < 0.6) if masked else None
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in rounded]
        expected = jax.device_get(value_and_gradients(lambda *a: naive_softmax(*a, valid), *wide))

    def ours(*arrays):
        return softmax_attention(*arrays, scale=0.25, key_valid=valid).astype(jnp.float32)

    for actual, wanted in zip(value_and_gradients(ours, *rounded), expected, strict=True):
        assert_within(actual.astype(jnp.float32), wanted, dtype)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_loss_is_never_rounded(align_corners):
    """Interpolation, cross entropy and gradient are float32 throughout, at any precision."""
    rng = np.random.default_rng(2)
    logits = (5 * rng.standard_normal((2, 33, 17, 150))).astype(np.float32)
    labels = rng.integers(0, 150, (2, 257, 129), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        expected, gradient = jax.device_get(
            jax.jit(
                jax.value_and_grad(lambda x: plain.loss_and_accuracy(x, labels, align_corners)[0])
            )(logits.astype(np.float64))
        )
    ours = jax.jit(jax.value_and_grad(lambda x: segmentation_loss(x, labels, align_corners).loss))
    loss, ours_gradient = ours(logits)
    assert_within(loss, expected, "exact")
    assert_within(ours_gradient, gradient, "exact")


class Fixed:
    """Stands for a network: the same logits for any images."""

    output_stride = 8

    def __init__(self, logits):
        self._logits = logits

    def __call__(self, images, valid=None):
        return self._logits


@pytest.mark.parametrize("align_corners", [False, True])
def test_masks_are_those_of_float64(align_corners):
    rng, size, canvas = np.random.default_rng(3), (96, 160), (123, 201)
    logits = rng.standard_normal((2, 12, 20, 150)).astype(np.float32)
    protocol = Protocol((max(size), min(size)), align_corners)
    sizes = [np.array([s] * 2, np.int32) for s in (size, canvas)]
    scaled = inference.Scaled(np.zeros((2, *size, 3), np.uint8), sizes[0])

    @jax.jit
    def masks(logits):
        network = Fixed(logits)
        scores = inference.low_resolution_scores(network, (scaled,), sizes[1], canvas, protocol)
        return inference.class_indices(scores)

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        volume = logits.astype(np.float64)
        for target in (size, canvas):
            volume = plain.resize_bilinear(volume, target, align_corners=align_corners)
        volume = np.asarray(volume)
    found = np.asarray(masks(logits))
    assert (found == volume.argmax(-1)).mean() > 0.9999
    chosen = np.take_along_axis(volume, found[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen, volume.max(-1), atol=1e-5)  # the others tie


def network_and_variables(dtype):
    config = tiny_config(dtype=dtype, **{"backbone.depth": 50, "num_classes": 21})
    config = files.override(config, **{"batch_size": 2, "data.crop_size": (65, 49)})
    network = build_network(config.model)
    return config, network, golden_variables(config, network)


@LONG
def test_the_folded_network_in_bfloat16():
    images = jnp.asarray(np.random.default_rng(4).standard_normal((2, 65, 49, 3)), jnp.float32)
    logits = {}
    for dtype, precision in (("float32", "highest"), ("bfloat16", "default")):
        _, network, variables = network_and_variables(dtype)
        lean, folded = fold(network, variables)
        with jax.default_matmul_precision(precision):
            logits[dtype] = jax.jit(lambda v, x: lean.bind_for_inference(v)(x))(folded, images)  # noqa: B023
    assert_within(logits["bfloat16"], logits["float32"], "bfloat16 network")


@LONG
def test_a_train_step_in_bfloat16_goes_the_same_way():
    """The program of `main`: its loss, and the direction in which it moves every kernel."""
    losses, moved = {}, {}
    for dtype, precision in (("float32", "highest"), ("bfloat16", "default")):
        config, _, variables = network_and_variables(dtype)
        mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
        program = TrainProgram.of(config, mesh)
        rng, shape = np.random.default_rng(5), (2, 65, 49)
        batch = {
            "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            "label": rng.integers(0, 21, shape, dtype=np.uint8),
            "size": np.array([shape[1:]] * 2, np.int32),
        }
        name = "decode_head/classifier/kernel"
        before = np.array(variables[name])
        state = program.first_state(variables)
        with jax.default_matmul_precision(precision):
            state, metrics = program.compile()(state, sharding.put_batch(batch, mesh))
        assert metrics["finite"]
        losses[dtype] = float(metrics["loss"])
        moved[dtype] = np.asarray(state.parameters[name]) - before
    assert_within(losses["bfloat16"], losses["float32"], "bfloat16")
    a, b = (m.ravel() for m in moved.values())
    assert a @ b > 0.99 * np.linalg.norm(a) * np.linalg.norm(b)
