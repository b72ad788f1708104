"""Pictures of what is wrong, and legends of what is drawn."""

import numpy as np

from nonlocal_jax.inputs.datasets.dataset import distinct_colours
from nonlocal_jax.reporting import pictures, side_by_side

PALETTE = distinct_colours(4)
NAMES = ("sky", "road", "a class with a name that is longer than the picture is wide", "car")


def example():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    label, mask = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    label[10:], label[:, :5] = 1, 255
    mask[12:], mask[:3, :10] = 1, 2
    return image, label, mask


def test_wrong_pixels_are_red_and_those_without_a_label_black():
    image, label, mask = example()
    shown = side_by_side.panels(image, label, mask, NAMES, PALETTE)
    for row in range(20):
        for column in range(30):
            pixel = shown.error[row, column].tolist()
            if label[row, column] == 255:
                assert pixel == [0, 0, 0]
            elif label[row, column] != mask[row, column]:
                assert pixel == list(side_by_side.WRONG)
            else:
                assert pixel[0] == pixel[1] == pixel[2] >= 40
    np.testing.assert_array_equal(shown.label[:, :5], image[:, :5])  # ignored: as it is


def test_a_legend_shows_the_mean_of_what_is_drawn():
    image, label, mask = example()
    tinted = [pictures.overlay(image, classes, PALETTE) for classes in (label, mask)]
    drawn = pictures.drawn_colours(tinted, [label, mask], np.array([1, 2], np.uint8))
    both = np.concatenate([tinted[0][label == 1], tinted[1][mask == 1]])
    np.testing.assert_array_equal(drawn[0], both.mean(axis=0).round())
    np.testing.assert_array_equal(drawn[1], tinted[1][mask == 2].mean(axis=0).round())
    legend = side_by_side.panels(image, label, mask, NAMES, PALETTE).legend
    for colour in drawn:
        assert (legend == colour).all(axis=-1).sum() >= 14 * 14


def test_all_panels_are_in_a_row_below_their_titles():
    shown = side_by_side.panels(*example(), NAMES, PALETTE)
    picture = side_by_side.side_by_side(shown, "a title that is wider than one of the panels")
    assert picture.shape[1] > 4 * 30
    for panel in (shown.image, shown.label, shown.prediction, shown.error):
        windows = np.lib.stride_tricks.sliding_window_view(picture, (20, 30, 3))[:, :, 0]
        assert (windows == panel).all(axis=(2, 3, 4)).any()
