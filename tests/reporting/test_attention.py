"""Pictures of attention: a colour means the same multiple of the uniform weight in all of them."""

import numpy as np
import pytest

from nonlocal_jax.reporting import attention

GREY = np.full((64, 64, 3), 90, np.uint8)


def drawn(weights, **options):
    return attention.overlay(GREY, np.asarray(weights, np.float32), None, **options)


def test_a_uniform_map_has_one_dull_colour_however_many_places_it_has():
    for side in (4, 8, 32):
        picture = drawn(np.full((side, side), 1 / side**2))
        assert np.unique(picture.reshape(-1, 3), axis=0).shape[0] == 1
        assert picture.max() < 128
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal((8, 8))
    assert np.ptp(drawn(noise / noise.sum()).astype(int), axis=(0, 1)).max() <= 2


def test_a_peaked_map_is_bright_where_it_is_largest():
    weights = np.full((8, 8), 0.3 / 63)
    weights[6, 1] = 0.7
    bright = drawn(weights).astype(int).sum(axis=-1)
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert (row // 8, column // 8) == (6, 1)
    assert bright.max() > 2 * bright[:32, 32:].max()


def test_a_colour_is_the_same_multiple_in_every_picture_and_on_the_scale():
    scale = attention.bar(GREY)[8]  # a row of its colours
    for multiple in (1, 4, 16):
        weights = np.full((8, 8), 1.0)
        weights[:4] = multiple
        picture = drawn(weights, uniform=1.0)
        place = 4 + (np.log2(multiple) + 2) / 8 * (len(scale) - 8)
        near = scale[round(place) - 2 : round(place) + 3].astype(int)
        assert np.abs(near - picture[4, 4].astype(int)).max(axis=1).min() <= 4
        np.testing.assert_array_equal(picture[60, 60], drawn(np.ones((8, 8)))[0, 0])


def test_a_cross_marks_the_pixel():
    picture = attention.overlay(GREY, np.ones((8, 8), np.float32), (10, 50))
    assert picture[10, 50].tolist() == [0, 255, 255]
    below = attention.picture(GREY, np.ones((8, 8), np.float32), (10, 50))
    assert below.shape[0] > 64 + 20 and below.shape[1] >= 64


@pytest.mark.parametrize(
    ("weights", "multiple", "half"),
    [
        (np.full((4, 4), 1 / 16), 1.0, 0.5),
        ([[1.0, 0.0], [0.0, 0.0]], 4.0, 0.25),
        ([[0.4, 0.4], [0.1, 0.1]], 1.6, 0.5),
        ([[0.0, -1.0], [0.0, 0.0]], 1.0, 0.5),
    ],
)
def test_how_peaked_a_map_is(weights, multiple, half):
    peak = attention.peak(np.asarray(weights, np.float64))
    assert peak.multiple == pytest.approx(multiple) and peak.half == pytest.approx(half)
