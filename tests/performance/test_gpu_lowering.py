"""What a GPU is given for loss and masks: no product, no loop, nothing moved at full resolution."""

import math
import re

import cuda
import jax
import jax.numpy as jnp
import pytest
from lookup import CLASSES, Lookup

from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol, Windows
from nonlocal_jax.ops import cross_entropy, readout
from nonlocal_jax.training.losses.cross_entropy import segmentation_loss

# What neither has: XLA gives each to a library or to a loop of kernels.
SLOW = ("dot_general", "convolution", "while", "sort", "scatter", "reduce_window")
KERNEL = "__gpu$xla.gpu.triton"


@pytest.fixture(params=["kernel", "taps"])
def form(request, monkeypatch):
    """The form that a GPU takes by default, and XLA's own."""
    assert cross_entropy.FORM == readout.FORM == "kernel"
    for module in (cross_entropy, readout):
        monkeypatch.setattr(module, "FORM", request.param)
    return request.param


def largest_transpose(program):
    """Elements of the largest array whose axes are exchanged."""
    shapes = [
        [int(length) for length in re.findall(r"(\d+)x", line.rpartition("tensor<")[2])]
        for line in cuda.operations(program, "transpose")
    ]
    return max(map(math.prod, shapes), default=0)


def kernels(program):
    calls = cuda.operations(program, "custom_call")
    assert all(KERNEL in call for call in calls)
    return len(calls)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_loss_and_its_gradient(form, align_corners, wide):
    """`wide`: 64 bits are switched on, and logits are float32 still."""
    with jax.enable_x64(wide):
        logits = jax.ShapeDtypeStruct((2, 32, 40, 150), jnp.float32)
        labels = jax.ShapeDtypeStruct((2, 256, 320), jnp.uint8)

        def loss(logits, labels):
            return segmentation_loss(logits, labels, align_corners).loss

        program = cuda.lowered(jax.value_and_grad(loss), logits, labels)
    for name in SLOW:
        assert not cuda.operations(program, name), name
    if form == "taps":
        assert not cuda.operations(program, "transpose") and kernels(program) == 0
    else:  # the kernels read logits with the classes first
        assert largest_transpose(program) == 2 * 32 * 40 * 152 and kernels(program) == 2


def test_float64_is_left_to_xla():
    with jax.enable_x64(True):
        logits = jax.ShapeDtypeStruct((2, 8, 8, 5), jnp.float64)
        labels = jax.ShapeDtypeStruct((2, 64, 64), jnp.uint8)
        loss = jax.value_and_grad(lambda x, y: segmentation_loss(x, y, False).loss)
        assert kernels(cuda.lowered(loss, logits, labels)) == 0


SIZE, CANVAS = (256, 320), (300, 400)
PROTOCOLS = {
    "whole": {},
    "slide": {"windows": Windows((128, 160), (86, 107))},
    "ms+flip": {"ratios": (0.5, 1.0), "flip": True},
    "slide ms+flip": {
        "ratios": (0.5, 1.0),
        "flip": True,
        "windows": Windows((96, 96), (64, 64)),
    },
}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_masks(form, name, align_corners):
    """Of images that may be smaller than their arrays; the only loops are the network's."""
    protocol = Protocol((320, 256), align_corners, **PROTOCOLS[name])
    pairs = jax.ShapeDtypeStruct((2, 2), jnp.int32)
    scales = tuple(
        Scaled(jax.ShapeDtypeStruct((2, *(int(r * s) for s in SIZE), 3), jnp.uint8), pairs)
        for r in protocol.ratios
    )

    def masks(scales, sizes):
        scores = inference.low_resolution_scores(Lookup(), scales, sizes, CANVAS, protocol)
        return inference.class_indices(scores)

    program = cuda.lowered(masks, scales, pairs)
    loops = {"while": len(scales) * (protocol.flip + (protocol.windows is not None))}
    for operation in SLOW:
        assert len(cuda.operations(program, operation)) == loops.get(operation, 0), operation
    assert largest_transpose(program) < 2 * CANVAS[0] * CANVAS[1] * CLASSES / 8
    views = len(scales) * (2 if protocol.flip else 1)
    expected = 0 if form == "taps" else 1 if views == 1 else views + 1
    assert kernels(program) == expected


def test_probabilities_are_made_in_blocks_that_keep_a_gpu_busy(monkeypatch):
    """Loops of many small kernels take longer than their work."""
    arrays = (2, 16, 20, CLASSES), (2, 256, 16), (2, 320, 20)
    scores = inference.LowResolution(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in arrays))
    monkeypatch.setattr(inference, "BLOCK", 2 * 320 * CLASSES)  # a row of each image
    program = cuda.lowered(lambda scores: inference.probabilities([scores]), scores)
    (shape,) = {line.rpartition("tensor<")[2] for line in cuda.operations(program, "exponential")}
    assert shape.startswith(f"2x256x{CLASSES}x320")
