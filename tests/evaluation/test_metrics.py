"""Confusion matrices and the scores they give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.evaluation.metrics import confusion
from nonlocal_jax.evaluation.metrics.scores import Scores


def random_masks(classes, shape=(3, 70, 41), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    labels[rng.random(shape) < 0.1] = IGNORED
    return labels, rng.integers(0, classes, shape).astype(np.uint8)


def counted(labels, predictions, classes):
    """One pixel at a time."""
    matrix = np.zeros((classes, classes), np.int64)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label != IGNORED:
            matrix[label, prediction] += 1
    return matrix


@pytest.mark.parametrize("classes", [2, 19, 150])
@pytest.mark.parametrize("count", [confusion._count_by_scatter, confusion._count_by_product])
def test_both_ways_of_counting_count_every_labelled_pixel(count, classes):
    labels, predictions = random_masks(classes)
    pixels = (jnp.asarray(mask.ravel(), jnp.int32) for mask in (labels, predictions))
    matrix = count(*pixels, classes)
    np.testing.assert_array_equal(matrix, counted(labels, predictions, classes))


def test_confusion_matrix_has_labels_in_rows():
    matrix = confusion.confusion_matrix(
        jnp.array([[1, 1, 0]], jnp.uint8), jnp.array([[0, 0, 255]], jnp.uint8), 2
    )
    np.testing.assert_array_equal(matrix, [[0, 2], [0, 0]])
    assert matrix.dtype == jnp.int32


@pytest.mark.parametrize("count", [confusion._count_by_scatter, confusion._count_by_product])
def test_a_prediction_that_is_no_class_is_not_counted_as_another(count):
    labels, predictions = jnp.array([0, 1, 1]), jnp.array([2, 1, 2])
    np.testing.assert_array_equal(count(labels, predictions, 2), [[0, 0], [0, 1]])


def test_counts_beyond_what_float32_can_hold_are_exact():
    pixels = 2**24 + 3
    ones = jnp.ones(pixels, jnp.uint8)
    matrix = jax.jit(confusion.confusion_matrix, static_argnums=2)(ones, ones, 2)
    assert int(matrix[1, 1]) == pixels
    scores = Scores(np.diag([2**53 + 1, 1]))
    assert scores.pixels == 2**53 + 2


def test_scores_of_a_matrix_done_by_hand():
    scores = Scores(np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]), ("a", "b", "c"))
    np.testing.assert_allclose(scores.iou, [6 / 9, 3 / 6, np.nan])
    np.testing.assert_allclose(scores.per_class("acc"), [6 / 8, 3 / 4, np.nan])
    np.testing.assert_allclose(scores.per_class("precision"), [6 / 7, 3 / 5, np.nan])
    np.testing.assert_allclose(scores.per_class("dice"), [12 / 15, 6 / 9, np.nan])
    np.testing.assert_allclose(scores.per_class("fscore"), [12 / 15, 6 / 9, np.nan])
    assert scores.aacc == pytest.approx(9 / 12)
    assert scores.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert scores.pixels == 12


def test_a_class_that_is_there_but_never_predicted_counts_as_zero_but_for_its_fscore():
    scores = Scores(np.array([[4, 0], [2, 0]]))
    np.testing.assert_allclose(scores.iou, [4 / 6, 0])
    np.testing.assert_allclose(scores.per_class("dice"), [8 / 10, 0])
    np.testing.assert_allclose(scores.per_class("fscore"), [8 / 10, np.nan])
    assert scores.mean("fscore") == pytest.approx(0.8)


def test_nothing_evaluated_gives_nan_and_no_warning():
    scores = Scores(np.zeros((2, 2), np.int64))
    assert np.isnan(scores.miou) and np.isnan(scores.aacc)
    assert scores.details()["miou"] is None


def test_table_and_json_name_the_classes():
    scores = Scores(np.array([[3, 1], [0, 0]]), ("road", "sidewalk"))
    lines = scores.table().splitlines()
    assert lines[0].split() == ["class", "IoU", "Acc", "Dice", "Fscore", "Precision"]
    assert lines[1].split() == ["road", "75.00", "75.00", "85.71", "85.71", "100.00"]
    assert lines[2].split() == ["sidewalk", "0.00", "-", "0.00", "-", "0.00"]
    assert lines[-1].startswith("aAcc 75.00  mIoU 37.50  mAcc 75.00")
    first = scores.details()["classes"][0]
    assert first["name"] == "road" and first["iou"] == 0.75
    assert scores.to_dict()["pixels"] == 4


def test_as_many_names_as_classes():
    with pytest.raises(ValueError, match="1 names for 2 classes"):
        Scores(np.zeros((2, 2), np.int64), ("a",))
