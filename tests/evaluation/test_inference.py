"""Class indices against a plain computation: one image, full volumes, np.interp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import whole_volumes

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.buckets import Bucket
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol, Windows
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.ops.normalize import MEAN_RGB, STD_RGB

CLASSES = 5
WEIGHTS = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)
SIZES = ((50, 37), (23, 64), (1, 1), (40, 40))
SCALE = (60, 48)

PROTOCOLS = {
    "whole": Protocol(SCALE, align_corners=False),
    "aligned": Protocol(SCALE, align_corners=True),
    "slide": Protocol(SCALE, align_corners=True, windows=Windows((33, 25), (21, 17))),
    "slide unaligned": Protocol(SCALE, align_corners=False, windows=Windows((25, 40), (20, 25))),
    "window larger than images": Protocol(
        SCALE, align_corners=True, windows=Windows((56, 99), (50, 60))
    ),
    "several": Protocol(SCALE, align_corners=False, ratios=(0.5, 1.0, 1.5), flip=True),
    "several sliding": Protocol(
        SCALE, align_corners=True, ratios=(0.6, 1.3), flip=True, windows=Windows((33, 33), (22, 22))
    ),
}


class Network:
    """A network with the logits of a function."""

    def __init__(self, function, output_stride):
        self.function, self.output_stride = function, output_stride

    def __call__(self, images, valid=None):
        return self.function(images, valid)


def sums(images, valid=None):
    """Sums over 8x8 pixels, and a linear layer: a network whose padding must be zero."""
    n, height, width, _ = images.shape
    if valid is not None:
        inside = (jnp.arange(height)[:, None] < valid[:, :1, None]) & (
            jnp.arange(width) < valid[:, 1:, None]
        )
        # What lies outside reaches the logits: they tell whether `valid` is the right one.
        images = jnp.where(inside[..., None], images, 0.0)
    rows, columns = -(-height // 8), -(-width // 8)
    images = jnp.pad(images, ((0, 0), (0, rows * 8 - height), (0, columns * 8 - width), (0, 0)))
    blocks = images.reshape(n, rows, 8, columns, 8, 3).sum((2, 4))
    return jnp.tanh(blocks / 30) @ WEIGHTS


network = Network(sums, 8)


def batch(protocol, seed=0):
    """Images, and them padded with noise at every scale of the protocol."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    images = [np.sort(image, axis=1) for image in images]
    sizes = [protocol.input_sizes(size) for size in SIZES]
    scales = []
    for scale in range(len(protocol.ratios)):
        shape = np.max([s[scale] for s in sizes], axis=0) + np.array((3, 5))
        padded = rng.integers(0, 256, (len(SIZES), *shape, 3), np.uint8)
        for row, image, size in zip(padded, images, sizes, strict=True):
            row[: size[scale][0], : size[scale][1]] = resize_image(image, size[scale])
        scales.append(Scaled(padded, np.array([s[scale] for s in sizes], np.int32)))
    return images, tuple(scales)


def expected_probabilities(image, protocol):
    """What the published protocol says of one image, float64 [h, w, classes]."""
    sizes = protocol.input_sizes(image.shape[:2])
    seen = [(resize_image(image, s) - np.float32(MEAN_RGB)) / np.float32(STD_RGB) for s in sizes]

    def logits(part):
        return np.asarray(network(np.ascontiguousarray(part[None], np.float32)))[0]

    return whole_volumes.probabilities(seen, image.shape[:2], protocol, logits)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_image_of_a_padded_batch_gets_the_protocols_result(name):
    protocol = PROTOCOLS[name]
    images, scales = batch(protocol)
    canvas = tuple((np.max(SIZES, axis=0) + np.array((2, 7))).tolist())

    @jax.jit
    def run(scales, sizes):
        scores = inference.low_resolution_scores(network, scales, sizes, canvas, protocol)
        return inference.class_indices(scores), inference.probabilities(scores)

    masks, volumes = jax.device_get(run(scales, np.array(SIZES, np.int32)))
    assert masks.shape == (len(SIZES), *canvas) and masks.dtype == np.uint8
    for image, mask, volume in zip(images, masks, volumes, strict=True):
        height, width = image.shape[:2]
        expected = expected_probabilities(image, protocol)
        actual = np.moveaxis(volume, 0, -1)[:height, :width]
        np.testing.assert_allclose(actual, expected, atol=2e-5)
        # Where two classes tie within rounding, either is right.
        chosen = np.take_along_axis(expected, mask[:height, :width, None].astype(int), -1)[..., 0]
        np.testing.assert_allclose(chosen, expected.max(-1), atol=4e-5)


@pytest.mark.parametrize("size", [1, 2**14, inference.BLOCK, inference.GPU_BLOCK])
def test_rows_are_cut_into_blocks_without_a_trace(size, monkeypatch):
    monkeypatch.setattr(inference, "BLOCK", size)
    rng = np.random.default_rng(0)
    shapes = (2, 6, 5, 4), (2, 100, 6), (2, 90, 5)
    arrays = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    scores = inference.LowResolution(*arrays)
    logits, rows, columns = (np.asarray(array, np.float64) for array in arrays)
    volume = np.einsum("nHa,nabc,nWb->nHWc", rows, logits, columns)
    masks = np.asarray(inference.class_indices([scores]))
    assert 2**14 < volume.size < 2**21, "one row, some rows and all rows"
    assert (masks == volume.argmax(-1)).mean() > 0.9999
    expected = np.moveaxis(whole_volumes.softmax(volume), -1, 1)
    np.testing.assert_allclose(inference.probabilities([scores]), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["_first_largest", "_first_largest_of_means"])
def test_the_first_of_equal_classes_wins_and_nan_is_no_class(name):
    scores = np.zeros((1, 1, 4, 3), np.float32)
    scores[0, 0, 2, 1] = scores[0, 0, 3, 1] = 7.0
    scores[0, 0, 1, 2] = np.nan
    largest = np.asarray(getattr(inference, name)(jnp.asarray(scores)))
    np.testing.assert_array_equal(largest, [[[0, 2, 4]]])


def test_each_pixel_of_several_views_has_a_class():
    """Also where XLA rounds a sum in two ways, as it does here: none equals the largest then."""
    rng = np.random.default_rng(0)
    shapes = (2, 6, 7, 7), (2, 1, 6), (2, 40, 7)
    views = [[jnp.asarray(rng.random(s), jnp.float32) for s in shapes] for _ in range(6)]
    scores = [inference.LowResolution(*view) for view in views]
    masks = np.asarray(jax.jit(inference.class_indices)(scores))
    volumes = [
        np.einsum("nHa,nabc,nWb->nHWc", *(np.asarray(x, np.float64) for x in (r, x, c)))
        for x, r, c, _ in scores
    ]
    expected = np.mean([whole_volumes.softmax(x) for x in volumes], axis=0).argmax(-1)
    np.testing.assert_array_equal(masks, expected)


def test_no_array_has_all_scores_of_all_pixels():
    """The compiled program holds no [classes, H, W] array, in any order of its axes."""
    canvas, classes = (512, 768), 40
    logits = jnp.zeros((1, 64, 96, classes))
    protocol = Protocol((768, 512), align_corners=False)
    scaled = Scaled(jnp.zeros((1, *canvas, 3), jnp.uint8), jnp.array([canvas], jnp.int32))

    def run(scaled, logits):
        scores = inference.low_resolution_scores(
            Network(lambda images, valid: logits, 8), (scaled,), scaled.sizes, canvas, protocol
        )
        return inference.class_indices(scores)

    compiled = jax.jit(run).lower(scaled, logits).compile()
    volume = 4 * classes * canvas[0] * canvas[1]
    assert compiled.memory_analysis().temp_size_in_bytes < volume / 2


@pytest.mark.parametrize(
    ("window", "smallest", "padded"),
    [
        (None, (60, 80), False),
        (None, (60, 79), True),
        ((40, 40), (41, 50), False),
        ((40, 40), (39, 50), True),
        ((70, 90), (60, 80), False),
        ((70, 90), (60, 70), True),
    ],
)
def test_masks_are_spared_where_no_image_is_smaller_than_what_the_network_sees(
    window, smallest, padded
):
    windows = Windows(window, window) if window else None
    protocol = Protocol(SCALE, align_corners=False, windows=windows)
    bucket = Bucket((60, 80), ((60, 80),), (smallest,), (0, 1))
    assert protocol.meets_padding(bucket) is padded


@pytest.mark.parametrize("stride", [(41, 40), (40, 0)])
def test_windows_that_leave_pixels_out_are_refused(stride):
    with pytest.raises(UserError, match="leave pixels out"):
        Windows((40, 40), stride)


def test_a_window_of_the_whole_image_is_the_whole_image():
    windows = Windows((769, 769), (513, 513))
    assert windows.cost(1025, 2049) == 2 * 4 * 769 * 769
    assert windows.cost(500, 600) == 500 * 600
    np.testing.assert_array_equal(windows.starts(1, jnp.array(2049), 2049), [0, 513, 1026, 1280])
    np.testing.assert_array_equal(windows.starts(1, jnp.array(900), 2049), [0, 131, 131, 131])
