"""The weights that a run starts from: random ones, or those of a backbone or checkpoint."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nonlocal_jax.checkpoints import compare
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import load_model
from nonlocal_jax.config.schema import Run
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.functional import Functional
from nonlocal_jax.runtime.console import say
from nonlocal_jax.training.tasks import task as tasks

# Settings in which a run may differ from its starting weights. Differences are reported.
RETRAINED = (
    "model.align_corners",
    "model.num_classes",
    "model.backbone.output_stride",
    "model.backbone.contract_dilation",
)


def check(path: str | os.PathLike[str]) -> None:
    """Raises a UserError if `config.init_from` is not there, with the command that gets it."""
    if not path or pathlib.Path(path).exists():
        return
    name = pathlib.Path(path).name
    command = f"nonlocal-jax convert --backbone={name} --output={path}"
    if name.endswith("_initial"):
        row = name.removesuffix("_initial")
        command = f"nonlocal-jax convert --config={row} --initial --input=FILE.pkl --output={path}"
    elif not name.startswith("resnet"):
        command = f"nonlocal-jax convert --config=ROW --output={path}"
    raise UserError(
        f"config.init_from is {path}, which is not there. Bring it with\n    {command}\n"
        "or start from random weights with --config.init_from=''"
    )


def initial_variables(
    config: Run, network: Functional[Any], class_names: Sequence[str] | None = None
) -> dict[str, jax.Array]:
    """All variables of `network`: those of `config.init_from`, the others random by `config.seed`.

    Args:
      config: the config of the run.
      network: its network.
      class_names: classes of the data, by label. Different classes of a checkpoint are reported.

    Raises:
      UserError: the checkpoint is of another network, of another number of classes without a
        setting that says what becomes of the classifiers, or does not name the classes that
        `config.init_match_classes` looks for.
    """
    variables = tasks.of(config).initial_variables()
    if not config.init_from:
        return variables
    loaded, metadata = load_model(config.init_from)
    if config.init_skip_classifier:
        loaded = {
            name: value for name, value in loaded.items() if _is_taken(name, value, variables)
        }
    if config.init_match_classes and class_names is not None:
        loaded = _matched(config.init_from, metadata, loaded, variables, class_names)
    _check(config, metadata, loaded, network)
    matched = config.init_match_classes
    if class_names is not None and not matched and any(_is_classifier(name) for name in loaded):
        _say_of(config.init_from, compare.classes(metadata, class_names))
    say(f"Starting from {config.init_from}: {len(loaded)} of {len(variables)} arrays.")
    return {
        **variables,
        **{name: jnp.asarray(value, variables[name].dtype) for name, value in loaded.items()},
    }


def _is_classifier(name: str) -> bool:
    return "classifier/" in name  # a head may have several


def _matched(
    path: str,
    metadata: Metadata,
    loaded: Mapping[str, np.ndarray],
    variables: Mapping[str, jax.Array],
    class_names: Sequence[str],
) -> dict[str, np.ndarray]:
    """The loaded arrays with classifiers of the data's classes.

    The last axis of a classifier's arrays is that of the classes. Those of a class that the
    checkpoint has by the same name are taken from there, the others from `variables`.
    """
    theirs = metadata.class_names
    if theirs is None:
        raise UserError(
            f"{path} does not name its classes, so config.init_match_classes finds none. To leave "
            "the classifiers at random, set --config.init_skip_classifier=True instead."
        )
    ours = [label for label, name in enumerate(class_names) if name in theirs]
    there = [theirs.index(class_names[label]) for label in ours]
    matched = dict(loaded)
    for name, value in loaded.items():
        if _is_classifier(name) and name in variables and value.shape[-1:] == (len(theirs),):
            matched[name] = np.array(variables[name])
            matched[name][..., ours] = value[..., there]
    shared = [class_names[label] for label in ours]
    others = [name for name in class_names if name not in theirs]
    say(f"Classes with the classifier of {path}: {', '.join(shared) or 'none'}.")
    say(f"Classes with a random classifier: {', '.join(others) or 'none'}.")
    return matched


def _is_taken(name: str, value: np.ndarray, variables: Mapping[str, jax.Array]) -> bool:
    """Whether an array is used; that of a classifier only if its shape is that of the network."""
    if not _is_classifier(name):
        return True
    return name in variables and value.shape == variables[name].shape


def _check(
    config: Run, metadata: Metadata, loaded: Mapping[str, np.ndarray], network: Functional[Any]
) -> None:
    path, skip = config.init_from, config.init_skip_classifier
    expected = {
        name: leaf
        for name, leaf in network.shapes.items()
        if (metadata.kind != "backbone" or name.startswith("backbone/"))
        and (name in loaded or not (skip and _is_classifier(name)))
        and name not in metadata.meta.get("new", ())  # a backbone of Caffe2 without these
    }
    arrays = compare.difference(loaded, expected)
    if arrays and all(_is_classifier(line) for line in arrays):
        raise UserError(
            f"{path} has another number of classes than config.model.num_classes. To take over "
            "the classes of the same names, set --config.init_match_classes=True; to leave the "
            "classifiers at random, set --config.init_skip_classifier=True."
        )
    settings = compare.meaning(metadata, config.model)
    refused = [line for key, line in settings.items() if key not in RETRAINED]
    compare.refuse(path, refused, arrays)
    for key in RETRAINED:
        _say_of(path, settings.get(key))


def _say_of(path: str, what: str | None) -> None:
    if what:
        say(f"Starting from {path}, which is otherwise: {what}")
