"""From variables to the blobs of a Caffe2 file, and the conversions that the original has."""

from collections.abc import Mapping

import numpy as np

from nonlocal_jax.checkpoints import compare
from nonlocal_jax.checkpoints.caffe2 import rules
from nonlocal_jax.checkpoints.caffe2.blob_file import ITERATIONS, LEARNING_RATE, Blob, Blobs
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.video_network import VideoNetwork

NORM = "_bn_"
STATISTICS = ("_rm", "_riv")
EPSILON = 1e-5
AFFINE_LEARNING_RATE, FINE_TUNING_LEARNING_RATE = 0.00125, 0.01


def export_checkpoint(
    variables: Mapping[str, np.ndarray], network: VideoNetwork, rest: Blobs
) -> dict[str, Blob]:
    """The blobs of a network, as `blob_file.write` takes them.

    Args:
      variables: arrays by our names.
      network: their network.
      rest: `lr`, and perhaps `model_iter` and momenta, by the names that they have in the file.

    Raises:
      UserError: the variables are not those of the network.
    """
    differences = compare.difference(variables, network.shapes)
    if differences:
        raise UserError("\n  ".join(["it is of another network:", *differences]))
    entries = rules.entries(network.shapes, network.caffe2_keys)
    blobs: dict[str, Blob] = {
        entry.key: rules.to_caffe2(np.asarray(variables[name]), entry.layout)
        for name, entry in entries.items()
    }
    return {**blobs, **rest}


def to_affine(blobs: Blobs) -> dict[str, Blob]:
    """The weights that an affine network starts from: each batch norm as a scale and a bias.

    With its running mean and variance, a norm computes s (x - mean) / sqrt(variance + epsilon) + b.

    Raises:
      UserError: the blobs have no running statistics.
    """
    if not any(key.endswith(STATISTICS) for key in blobs):
        raise UserError("it has no running statistics, which make a batch norm an affine layer")
    kept = {
        key: value
        for key, value in _without_run(blobs).items()
        if not (NORM in key and key.endswith(STATISTICS))
    }
    for key, scale in blobs.items():
        if not (NORM in key and key.endswith("_s")):
            continue
        norm = key.removesuffix("_s")
        deviation = np.sqrt(blobs[f"{norm}_riv"] + np.float32(EPSILON))
        kept[key] = scale / deviation
        kept[f"{norm}_b"] = blobs[f"{norm}_b"] - blobs[f"{norm}_rm"] * scale / deviation
    return {**kept, LEARNING_RATE: AFFINE_LEARNING_RATE}


def for_fine_tuning(blobs: Blobs) -> dict[str, Blob]:
    """The weights that a network for other classes starts from.

    Running statistics are left out, as by the original: precise batch norm makes new ones.
    """
    kept = {k: v for k, v in _without_run(blobs).items() if not k.endswith(STATISTICS)}
    return {**kept, LEARNING_RATE: FINE_TUNING_LEARNING_RATE}


def _without_run(blobs: Blobs) -> dict[str, Blob]:
    """Without what belongs to a run, and without the classifier."""
    return {
        key: value
        for key, value in blobs.items()
        if "pred" not in key
        and not key.endswith(rules.MOMENTUM)
        and key not in (ITERATIONS, LEARNING_RATE)
    }
