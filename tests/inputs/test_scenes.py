"""The generated scenes: what they promise of the lamp, the shapes, and the space between."""

import jax
import numpy as np
import pytest
from plain import resize_bilinear

from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets, sources
from nonlocal_jax.inputs.datasets import scenes
from nonlocal_jax.models.network import build_network, init_variables
from nonlocal_jax.ops.normalize import normalize

MANY = [("train", index) for index in range(100)] + [("val", index) for index in range(100)]


def test_a_scene_is_the_same_every_time_and_no_other_is_like_it():
    first = scenes.make_scene("val", 3)
    again = scenes.make_scene("val", 3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert len({scenes.make_scene(*which)[0].tobytes() for which in MANY}) == len(MANY)


def test_every_class_follows_from_the_lamps_colour():
    seen = set()
    for which in MANY:
        image, label = scenes.make_scene(*which)
        assert image.dtype == label.dtype == np.uint8
        assert image.shape == (64, 512, 3) and label.shape == (64, 512)
        lamp, shapes = _halves(image, label)
        colour = image[lamp].mean(axis=0)
        nearest = np.abs(scenes.LAMP_COLOURS - colour).sum(axis=1).argmin()
        assert set(label[lamp]) == set(label[shapes]) == {1 + nearest}
        seen.add(nearest)
    assert len(seen) == len(scenes.LAMP_COLOURS)


def test_only_the_lamp_has_colour():
    for which in MANY:
        image, label = scenes.make_scene(*which)
        lamp, shapes = _halves(image, label)
        assert (image[shapes] == image[shapes][:, :1]).all()
        np.testing.assert_array_equal(scenes.lamp_mask(image, label), lamp)


def test_the_lamp_is_at_either_end_and_far_from_every_shape():
    lamp_is_left = []
    for which in MANY:
        lamp, shapes = _halves(*scenes.make_scene(*which))
        assert _gap(lamp, shapes) > scenes.GAP
        lamp_is_left.append(lamp[:, :256].any())
    assert 0.3 < np.mean(lamp_is_left) < 0.7


@pytest.mark.parametrize("head", ["fcn", "nonlocal"])
def test_only_the_non_local_block_carries_the_lamp_to_the_shapes(head):
    """Exact zeros in the gradient: the lamp is outside of what convolutions can reach."""
    config = files.load("demo", **{"model.decode_head.name": head})
    network = build_network(config.model)
    # Some norms start at zero, which would hide the paths through them.
    variables = {
        name: value + 0.5 if name.endswith("norm/scale") else value
        for name, value in init_variables(config.model, 0).items()
    }
    every = [scenes.make_scene(*which) for which in MANY]
    image, label = min(every, key=lambda scene: _gap(*_halves(*scene)))
    lamp, shapes = _halves(image, label)
    weights = np.random.default_rng(0).normal(size=(1, *label.shape, len(scenes.CLASS_NAMES)))
    weights = np.where(shapes[..., None], weights, 0).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(images):
        model = network.bind(variables)
        model.eval()
        logits = resize_bilinear(model(images), label.shape, align_corners=False)
        return (logits * weights).sum()

    by_pixel = np.abs(np.asarray(gradient(normalize(image[None]))[0])).sum(axis=-1)
    columns = np.flatnonzero(shapes.any(axis=0))
    far = slice(columns[0] - 150) if lamp[:, :256].any() else slice(columns[-1] + 150, None)
    assert by_pixel[:, far].any()
    assert by_pixel[lamp].any() == (head == "nonlocal")


def test_they_are_a_data_set_like_others():
    dataset = datasets.describe(Data(name="scenes"))
    source = sources.open_source(dataset, "val")
    assert len(source) == dataset.counts["val"]
    image, label = scenes.make_scene("val", 7)
    example = source[7]
    np.testing.assert_array_equal(example.image, image)
    np.testing.assert_array_equal(example.label, label)
    assert source.image_size(7) == label.shape
    for setting in ({"data_dir": "elsewhere"}, {"kind": "folder"}):
        with pytest.raises(UserError, match="the data set scenes has no files"):
            sources.open_source(dataset, "val", **setting)
    assert dataset.palette.shape == (dataset.num_classes, 3)


def _halves(image, label):
    """What is labelled in the half that has colour there, and in the other one."""
    left = (label > 0) & (np.arange(512) < 256)
    right = (label > 0) & ~left
    return (left, right) if np.ptp(image[left].mean(axis=0)) > 60 else (right, left)


def _gap(lamp, shapes):
    """Pixels from the lamp to the nearest shape, along the rows."""
    lamp, shapes = (np.flatnonzero(mask.any(axis=0)) for mask in (lamp, shapes))
    return max(shapes[0] - lamp[-1], lamp[0] - shapes[-1])
