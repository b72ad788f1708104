"""Resizing bytes on the device is OpenCV's, to the bit."""

import jax
import numpy as np
import pytest

from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.ops.byte_resize import resize_bytes

SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 7)),
    ((7, 5), (1, 1)),
    ((33, 47), (33, 47)),
    ((48, 64), (24, 32)),  # OpenCV averages here
    ((31, 45), (64, 93)),
    ((360, 480), (385, 513)),
    ((97, 3), (1021, 2)),
    ((2, 1500), (3, 2048)),
    # One axis of any length, where float32 positions are coarse.
    ((4096, 1), (1367, 1)),
    ((1, 4093), (1, 4096)),
    ((8191, 1), (3001, 1)),
    ((1, 5001), (1, 8192)),
]


@pytest.mark.parametrize(("source", "target"), SIZES, ids=str)
def test_bytes_are_those_of_opencv(source, target):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *source, 3), dtype=np.uint8)
    resized = resize_bytes(images, *target)
    expected = np.stack([resize_image(image, target) for image in images])
    np.testing.assert_array_equal(resized, expected)


@pytest.mark.soak
def test_bytes_are_those_of_opencv_for_many_lengths():
    rng = np.random.default_rng(1)
    for _ in range(300):
        source, target = (int(length) for length in rng.integers(1, 8193, 2))
        images = rng.integers(0, 256, (1, source, 1, 3), dtype=np.uint8)
        np.testing.assert_array_equal(
            resize_bytes(images, target, 1)[0], resize_image(images[0], (target, 1))
        )
        np.testing.assert_array_equal(
            resize_bytes(images.swapaxes(1, 2), 1, target)[0],
            resize_image(images[0].swapaxes(0, 1), (1, target)),
        )
        jax.clear_caches()
