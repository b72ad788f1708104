"""Checkpoints for hub folders: of a network that compiles in a moment, with an auxiliary head."""

import numpy as np
from evaluations import NUM_CLASSES, small

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.hub.save import save
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import save_model
from nonlocal_jax.models.network import init_variables

CLASSES = tuple(f"class {i}" for i in range(NUM_CLASSES))
PALETTE = np.arange(3 * NUM_CLASSES, dtype=np.uint8).reshape(-1, 3)
META = {"CLASSES": list(CLASSES), "PALETTE": PALETTE.tolist()}


def config_of(root, **overrides):
    """The network's config, with its auxiliary head."""
    return small(root, **{"model.auxiliary_head.loss_weight": 0.4, **overrides})


def saved_checkpoint(path, config, **metadata):
    """A checkpoint with random weights, as conversion writes it."""
    variables = {k: np.asarray(v) for k, v in init_variables(config.model, 3).items()}
    given = {"kind": "segmentor", "network": "tiny", "meta": META, **metadata}
    save_model(path, variables, Metadata(config=config, **given))
    return path


def saved_folder(checkpoint, config, directory, **options):
    """The same as a hub folder."""
    found = locate.find(checkpoint)
    return save(found, config, directory, class_names=CLASSES, palette=PALETTE, **options)


def assert_same_arrays(found, expected):
    """Bit by bit, with dtypes and shapes."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name
