"""Exports of a network of depth 18 at base width 4, with the golden weights."""

import pathlib

import numpy as np
from networks import NUM_CLASSES, golden_variables
from runs import tiny

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network, without_auxiliary_head

SCALE = (96, 64)
SLIDE = {"eval.mode": "slide", "eval.window": (40, 40), "eval.stride": (24, 24)}


def restored(**overrides):
    """A checkpoint for inference; overrides are keys of its config."""
    config = tiny(**{"eval.scale": SCALE, **overrides})
    model = without_auxiliary_head(config.model)
    network = build_network(model)
    values = {name: np.asarray(x) for name, x in golden_variables(config, network).items()}
    network, folded = fold(network, values)
    names = tuple(f"class {index}" for index in range(NUM_CLASSES))
    palette = np.arange(3 * NUM_CLASSES, dtype=np.uint8).reshape(-1, 3)
    found = locate.Found(pathlib.Path("checkpoint"), None, None)
    return Restored(found, Metadata(kind="segmentor"), config, network, folded, names, palette)


def request(output="", result="indices", *, tta=False, images=(), **overrides):
    """A request for an export; overrides are keys of the config."""
    return Request(
        restored(**overrides), pathlib.Path(output), result, tta=tta, images=tuple(images)
    )


def picture(height, width, seed=0):
    """RGB, uint8 [height, width, 3]: blurred noise, so that classes have areas."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 2, width // 6 + 2, 3))
    return resize_image(noise.astype(np.uint8), (height, width))


def predicted(asked, image):
    """What the predictor makes of an image."""
    model = Predictor(asked.restored, tta=asked.tta)
    names = {"indices": "predict", "probabilities": "probabilities", "logits": "logits"}
    return getattr(model, names[asked.result])(image)


def assert_same(found, expected):
    """Asserts what check.py does of an export."""
    assert found.shape == expected.shape
    if expected.dtype == np.uint8:
        assert np.mean(found == expected) >= 0.9999
    else:
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)
