"""Cross entropy at the labels' resolution: equal to the plain formula, without its volume."""

import jax
import numpy as np
import plain
import pytest
from device import ROUNDING

from nonlocal_jax.ops import score_blocks
from nonlocal_jax.training.losses.cross_entropy import segmentation_loss


def batch(low, high, *, n=2, classes=7, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    logits = (5 * rng.standard_normal((n, *low, classes))).astype(dtype)
    labels = rng.integers(0, classes, (n, *high), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    return logits, labels


def with_gradient(function, logits, labels, align_corners):
    def weighted(logits):
        loss, accuracy = function(logits, labels, align_corners)
        return 0.4 * loss, (loss, accuracy)

    gradient, (loss, accuracy) = jax.jit(jax.grad(weighted, has_aux=True))(logits)
    return np.asarray(loss), np.asarray(accuracy), np.asarray(gradient)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("low", "high"),
    [((5, 7), (37, 53)), ((4, 3), (32, 24)), ((9, 1), (65, 3)), ((6, 8), (6, 8)), ((7, 9), (3, 5))],
)
def test_loss_accuracy_and_gradient_equal_the_plain_formulas(
    low, high, align_corners, dtype, monkeypatch
):
    monkeypatch.setattr(score_blocks, "BLOCK_BYTES", 0)  # blocks of 8 rows
    with jax.enable_x64(True):
        logits, labels = batch(low, high, dtype=dtype)
        got = with_gradient(segmentation_loss, logits, labels, align_corners)
        arrays = logits.astype(np.float64), labels
        expected = with_gradient(plain.loss_and_accuracy, *arrays, align_corners)
    wide = dtype == np.float64
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-14 if wide else 1e-6)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6)
    assert got[2].dtype == dtype
    error = np.abs(got[2] - expected[2]).max() / np.abs(expected[2]).max()
    assert error < ROUNDING * (1e-14 if wide else 1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_as_exact_as_the_plain_formula_in_the_same_precision(align_corners):
    """A row's own sizes: both are compared with float64."""
    logits, labels = batch((33, 17), (257, 129), classes=150)
    got = with_gradient(segmentation_loss, logits, labels, align_corners)
    same = with_gradient(plain.loss_and_accuracy, logits, labels, align_corners)
    np.testing.assert_allclose(got[0], same[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], same[1], rtol=1e-6)
    scale = np.abs(same[2]).max()
    assert np.abs(got[2] - same[2]).max() < ROUNDING * 5e-7 * scale
    assert np.linalg.norm(got[2] - same[2]) < ROUNDING * 2e-7 * np.linalg.norm(same[2])


def test_ignored_pixels_count_in_the_denominator():
    logits, labels = batch((3, 4), (3, 4), n=1, classes=5)
    labels[0, 0] = 255
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = shifted / shifted.sum(-1, keepdims=True)
    total, right, counted = 0.0, 0, 0
    for index in np.ndindex(labels.shape):
        if labels[index] != 255:
            total -= np.log(probabilities[index][labels[index]])
            right += logits[index].argmax() == labels[index]
            counted += 1
    loss, accuracy = segmentation_loss(logits, labels, False)
    assert counted < 12
    np.testing.assert_allclose(loss, total / 12, rtol=1e-6)
    np.testing.assert_allclose(accuracy, right / counted, rtol=1e-6)


def test_a_batch_without_labels_has_loss_zero_and_no_gradient():
    logits, labels = batch((2, 2), (9, 9))
    loss, accuracy, gradient = with_gradient(
        segmentation_loss, logits, np.full_like(labels, 255), False
    )
    assert loss == 0 and np.isnan(accuracy) and not gradient.any()


def test_the_first_of_equal_scores_is_the_prediction():
    labels = np.zeros((1, 8, 8), np.uint8)
    labels[0, :2] = 1
    _, accuracy = segmentation_loss(np.zeros((1, 2, 2, 3), np.float32), labels, False)
    assert accuracy == 0.75


def test_a_label_that_is_no_class_makes_the_loss_nan():
    logits, labels = batch((4, 4), (16, 16))
    labels[0, 5, 5] = 7
    assert np.isnan(segmentation_loss(logits, labels, False).loss)
