"""A checkpoint as a video network that is ready for inference, with its classes."""

import dataclasses
from collections.abc import Collection

import numpy as np

from nonlocal_jax.checkpoints import compare, locate
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import load_found
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.video import dataset
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.video_network import VideoNetwork, build_network


@dataclasses.dataclass(frozen=True, eq=False)
class RestoredVideo:
    """A checkpoint for inference.

    Attributes:
      found: the checkpoint.
      metadata: its metadata.
      config: the config it is used with.
      network: with norms folded.
      variables: the network's arrays by name.
      class_names: one per class index.
    """

    found: locate.Found
    metadata: Metadata
    config: VideoConfig
    network: VideoNetwork
    variables: dict[str, np.ndarray]
    class_names: tuple[str, ...]


def restore(
    found: locate.Found, config: VideoConfig, *, departing: Collection[str] = ()
) -> RestoredVideo:
    """A checkpoint's network and arrays.

    Args:
      found: the checkpoint.
      config: its own, or one whose network is the same.
      departing: dotted keys of the config that were given another value on purpose.

    Raises:
      UserError: the checkpoint is damaged, or of another network than the config's.
    """
    network = build_network(config.model)
    variables, metadata = load_found(found)
    expected = {name: leaf.shape for name, leaf in network.shapes.items()}
    there = {name: value.shape for name, value in variables.items()}
    compare.check(found, metadata, there, config.model, expected, departing=departing)
    typed = {name: np.asarray(variables[name], leaf.dtype) for name, leaf in network.shapes.items()}
    network, folded = fold(network, typed)
    return RestoredVideo(found, metadata, config, network, folded, _classes(metadata, config))


def _classes(metadata: Metadata, config: VideoConfig) -> tuple[str, ...]:
    """Names of the classes, from the checkpoint or else from the data set."""
    count, names = config.model.num_classes, metadata.class_names
    if names is None or len(names) != count:
        names = dataset.describe(config.data, config.data_dir).class_names
    if len(names) != count:
        raise UserError(
            f"config.model.num_classes is {count}, and {config.data.name} has {len(names)} classes."
        )
    return names
