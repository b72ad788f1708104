"""What an export is compared on, and that results which are not numbers are refused."""

import types

import numpy as np
import pytest
from exports import picture
from PIL import Image
from runs import tiny

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import check
from nonlocal_jax.inputs.decode import TooManyPixels


def asked(*images, **overrides):
    """What `check` reads of a request."""
    restored = types.SimpleNamespace(config=tiny(**overrides))
    return types.SimpleNamespace(
        restored=restored, result="probabilities", tta=False, images=images
    )


def results(image):
    """Numbers for each pixel of an image."""
    rng = np.random.default_rng(0)
    return rng.uniform(size=(*image.shape[:2], 5)).astype(np.float32)


def test_a_number_that_is_nan_is_a_difference(monkeypatch, tmp_path):
    class Reference:
        def __init__(self, restored, *, tta):
            self.predict = self.probabilities = self.logits = results

    def broken(images):
        found = results(images[0])
        found[7, 5] = np.nan  # its class counts as another one, which is allowed
        return found[None]

    monkeypatch.setattr(check, "Predictor", Reference)
    Image.fromarray(picture(121, 121)).save(tmp_path / "a.png")
    told = check.compare(asked(tmp_path / "a.png"), lambda images: results(images[0])[None])
    assert "100.0000% of the classes are equal" in told
    with pytest.raises(UserError, match="by at most nan of the largest"):
        check.compare(asked(tmp_path / "a.png"), broken)


def test_images_are_read_one_by_one_within_the_limit_of_pixels(tmp_path):
    for name, size in (("a", (20, 30)), ("b", (40, 50))):
        Image.fromarray(picture(*size)).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "no")]
    seen = check.images(asked(*paths, **{"data.max_pixels": 700}))
    assert next(seen).shape == (19, 29, 3)
    with pytest.raises(TooManyPixels, match=r"b\.png"):
        next(seen)
