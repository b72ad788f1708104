"""A small network that attends to few positions, with names that would break out of a page."""

import pathlib

import numpy as np
from evaluations import NUM_CLASSES, config_for, run_command
from networks import golden_variables

import nonlocal_jax
from nonlocal_jax import export
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import save_model
from nonlocal_jax.models.network import build_network

HOSTILE = "</script><script>window.broken=1</script><img src=x onerror=window.broken=1>&amp;\u2028"
NAMES = (HOSTILE, *(f"class {i}" for i in range(1, NUM_CLASSES)))
WEB = pathlib.Path(nonlocal_jax.__file__).parent / "exporting" / "page" / "web"
LOUD = 60.0  # factor of the keys: else the golden weights attend to everything alike


def attentive(folder, **overrides):
    """A checkpoint with golden weights and loud keys."""
    config = config_for(folder, **{"model.backbone.depth": 18, **overrides})
    network = build_network(config.model)
    variables = {k: np.asarray(v) for k, v in golden_variables(config, network).items()}
    variables = {k: LOUD * v if k.endswith("phi/kernel") else v for k, v in variables.items()}
    meta = {"CLASSES": list(NAMES)}
    save_model(folder, variables, Metadata(kind="segmentor", config=config, meta=meta))
    return folder


def words(checkpoint, images, output):
    """The flags of the command that writes a page."""
    paths = {"checkpoint": checkpoint, "input": images, "output": output}
    return ["--to=page", *(f"--{name}={path}" for name, path in paths.items())]


def make_page(checkpoint, images, output, *more):
    """What the command says when it writes a page."""
    return run_command(export, *words(checkpoint, images, output), *more)
