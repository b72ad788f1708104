"""The weights that a run starts from: random ones, under an imported backbone or checkpoint."""

import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from nonlocal_jax.checkpoints import training
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.network import Network, init_variables
from nonlocal_jax.training.run_log import say


def check(config: ConfigDict) -> None:
    """Raises a UserError if `config.init_from` is not there, with the command that brings it."""
    path = config.init_from
    if not path or pathlib.Path(path).exists():
        return
    name = pathlib.Path(path).name
    command = f"python -m nonlocal_jax.convert --backbone={name} --output={path}"
    if not name.startswith("resnet"):
        command = f"python -m nonlocal_jax.convert --config=configs/ROW.py --output={path}"
    raise UserError(
        f"config.init_from is {path}, which is not there. Bring it with\n    {command}\n"
        "or start from random weights with --config.init_from=''"
    )


def initial_variables(config: ConfigDict, network: Network) -> dict[str, jax.Array]:
    """All variables of `network`: random by `config.seed`, then those of `config.init_from`.

    Raises:
      UserError: the checkpoint is of another network, or of another number of classes and
        `config.init_skip_classifier` is not set.
    """
    variables = init_variables(config.model, config.seed)
    if not config.init_from:
        return variables
    loaded, metadata = training.load_model(config.init_from)
    if config.init_skip_classifier:
        loaded = {
            name: value
            for name, value in loaded.items()
            if "/classifier/" not in name or value.shape == variables[name].shape
        }
    _check(config.init_from, loaded, network, metadata, config.init_skip_classifier)
    say(f"Starting from {config.init_from}: {len(loaded)} of {len(variables)} arrays.")
    return {**variables, **{k: _like(v, variables[k]) for k, v in loaded.items()}}


def _like(value: np.ndarray, variable: jax.Array) -> jax.Array:
    return jax.numpy.asarray(value, variable.dtype)


def _check(
    path: str,
    loaded: dict[str, np.ndarray],
    network: Network,
    metadata: dict[str, object],
    skip_classifier: bool,
) -> None:
    shapes = network.shapes
    expected = {
        name
        for name in shapes
        if (metadata.get("kind") != "backbone" or name.startswith("backbone/"))
        and not (skip_classifier and "/classifier/" in name)
    }
    lines = [f"missing: {name}" for name in sorted(expected - set(loaded))]
    lines += [f"unexpected: {name}" for name in sorted(set(loaded) - set(shapes))]
    lines += [
        f"{name}: {value.shape} there, {shapes[name].shape} here"
        for name, value in loaded.items()
        if name in shapes and value.shape != shapes[name].shape
    ]
    if lines and all("/classifier/" in line for line in lines):
        raise UserError(
            f"{path} has another number of classes than config.model.num_classes. To leave the "
            "classifiers at random, set --config.init_skip_classifier=True."
        )
    if lines:
        shown = "\n  ".join(lines[:20] + ["..."] * (len(lines) > 20))
        raise UserError(f"{path} is of another network than config.model:\n  {shown}")
