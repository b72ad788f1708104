"""Small networks with known weights, as golden/make_model.py builds the reference."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from device import EXACT, ROUNDING

from nonlocal_jax.checkpoints.pytorch import rules
from nonlocal_jax.config import files

TESTS = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = TESTS / "golden"
CONFIGS = TESTS.parent / "configs"
sys.path.insert(0, str(GOLDEN))

from weights import NUM_CLASSES, fingerprint, images, labels, weights  # noqa: E402, F401


def tiny_config(**overrides):
    """A row at base width 4; overrides are keys of its `model` section."""
    tiny = {
        **EXACT,
        "num_classes": NUM_CLASSES,
        "backbone.stem_channels": 4,
        "backbone.base_channels": 4,
        "decode_head.channels": 16,
        "decode_head.dropout": 0.0,
        "auxiliary_head.channels": 8,
        "auxiliary_head.dropout": 0.0,
    }
    values = {f"model.{key}": value for key, value in (tiny | overrides).items()}
    return files.load(CONFIGS / "ade20k_r50_80k.py", **values)


def golden_variables(config, network):
    """The weights of golden/weights.py under our names and in our layouts."""
    entries = rules.torch_entries(network.shapes, network.torch_keys)
    shapes = {
        entry.key: rules.torch_shape(network.shapes[name].shape, entry.layout)
        for name, entry in entries.items()
    }
    values = weights(shapes)
    return {
        name: jnp.asarray(rules.to_ours(values[entry.key], entry.layout))
        for name, entry in entries.items()
    }


def golden_batch(step, size):
    """The batch of a step of golden/make_model.py, whose images are normalised already."""
    return {
        "image": jnp.asarray(images(100 + step, (2, *size, 3)), float),
        "label": jnp.asarray(labels(200 + step, (2, *size))),
        "size": jnp.asarray([size, size], jnp.int32),
    }


def lower_stage4(network, size):
    """The backbone in evaluation, of one square image."""

    def stage4(variables, images):
        model = network.bind(variables)
        model.eval()
        return model.backbone(images)["stage4"]

    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.jit(stage4).lower(network.shapes, images)


def assert_close(actual, expected, tolerance):
    """Within `tolerance` of the largest magnitude."""
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert error <= ROUNDING * tolerance * np.abs(expected).max()
