"""Masks of batches: those of the predictor, whatever else is in the batch."""

import numpy as np
import pytest
from evaluations import label, mixed_examples, picture, write_folder
from serving import checkpoint

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.serving.engine import Engine
from nonlocal_jax.serving.limits import Limits


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_folder(root, {"0": (picture(0), label(0))})
    path = checkpoint(root, root / "checkpoint")
    return restore(locate.find(path), predictor.load(path).config)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_mask_does_not_depend_on_the_batch(restored, one_by_one):
    engine = Engine(restored, Limits(max_batch=3), one_by_one=one_by_one)
    images = [image for image, _ in mixed_examples(8, largest=40).values()]
    groups = {}
    for image in images:
        groups.setdefault(engine.shapes(image.shape[:2]), []).append(image)
    shapes, group = max(groups.items(), key=lambda item: len(item[1]))
    first, second, *_, last = group
    together = engine.segment(shapes, [first, second, last])
    for images, masks in (
        ([last, first], [together[2], together[0]]),
        ([second], [together[1]]),
        ([first, first, second], [together[0], together[0], together[1]]),
    ):
        for mask, expected in zip(engine.segment(shapes, images), masks, strict=True):
            np.testing.assert_array_equal(mask, expected)
    model = predictor.Predictor(restored)
    for image, mask in zip((first, second, last), together, strict=True):
        expected = model.predict(image)
        # All rows at once are rounded in another order, which decides between equal scores.
        assert mask.shape == expected.shape
        assert (mask != expected).sum() <= (0 if one_by_one else 2)


def test_scores_that_are_not_finite_are_an_error(restored):
    engine = Engine(restored, Limits(max_batch=2))
    engine._variables = {name: value * np.nan for name, value in engine._variables.items()}
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.segment(engine.shapes((30, 30)), [picture(0)[:30, :30]])
