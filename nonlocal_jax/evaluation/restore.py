"""A checkpoint as a network that is ready for inference, with its classes."""

import dataclasses
import pathlib
from collections.abc import Collection

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.checkpoints import compare, locate
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import load_found
from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets
from nonlocal_jax.inputs.datasets.dataset import Palette, distinct_colours
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import Network, build_network, without_auxiliary_head
from nonlocal_jax.runtime import startup


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A checkpoint for inference.

    Attributes:
      found: the checkpoint.
      metadata: its metadata.
      config: the config it is used with.
      network: without the auxiliary head, and with batch norms folded.
      variables: the network's arrays by name.
      class_names: one per class index.
      palette: RGB of each class.
    """

    found: locate.Found
    metadata: Metadata
    config: schema.Config
    network: Network
    variables: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    palette: UInt8[np.ndarray, "classes 3"]


def restore(
    found: locate.Found, config: schema.Config, *, departing: Collection[str] = ()
) -> Restored:
    """A checkpoint's network and arrays.

    Args:
      found: the checkpoint.
      config: its own, or one whose network is the same.
      departing: dotted keys of the config that were given another value on purpose.

    Raises:
      UserError: the checkpoint is damaged, or of another network than the config's.
    """
    startup.check_kernel(config.model)
    model = without_auxiliary_head(config.model)
    network = build_network(model)
    loaded, metadata = load_found(found)
    variables = {k: v for k, v in loaded.items() if not k.startswith("auxiliary_head/")}
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    compare.check(
        found,
        _for_inference(metadata),
        {name: value.shape for name, value in variables.items()},
        model,
        shapes,
        departing=departing,
    )
    dtypes = {name: leaf.dtype for name, leaf in network.shapes.items()}
    network, folded = fold(network, {k: np.asarray(v, dtypes[k]) for k, v in variables.items()})
    return Restored(found, metadata, config, network, folded, *_classes(metadata, config))


def _for_inference(metadata: Metadata) -> Metadata:
    """Metadata of the checkpoint without what only training sees."""
    model = metadata.model and without_auxiliary_head(metadata.model)
    return dataclasses.replace(metadata, config=None, model=model)


def _classes(metadata: Metadata, config: schema.Config) -> tuple[tuple[str, ...], Palette]:
    """Names and colours of the classes, from the checkpoint or else from the data set."""
    count = config.model.num_classes
    names, palette = metadata.class_names, metadata.palette
    if names is None or len(names) != count:
        dataset = datasets.describe(config.data, config.data_dir)
        names, palette = dataset.class_names, dataset.palette
        if len(names) != count:
            raise UserError(
                f"config.model.num_classes is {count}, and {config.data.name} has {len(names)} "
                "classes."
            )
    if palette is None or len(palette) != count:
        palette = distinct_colours(count)
    return names, palette


def default_output(found: locate.Found, name: str) -> pathlib.Path:
    """The default folder of results: in the run, or in the folder of a checkpoint without one.

    For "org/name", which was downloaded, it is in a folder of that name here.
    """
    if found.repository:
        return pathlib.Path(found.repository.partition("@")[0].rpartition("/")[2]) / name
    return (found.run or found.folder) / name
