"""From variables to what the PyTorch reference saves and loads."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import difference, rules
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.torch_keys import TorchKeys


def export_checkpoint(
    variables: Mapping[str, np.ndarray],
    metadata: Metadata,
    expected: Mapping[str, tuple[int, ...]],
    *,
    keys: TorchKeys,
) -> dict[str, Any]:
    """Returns {"meta": ..., "state_dict": ...} for `torch_file.write`, tensors in OIHW.

    Args:
      variables: arrays by our names.
      metadata: of our checkpoint; an import's `meta` and counters are written again.
      expected: shape of every variable of the network, by our names.
      keys: of the network.

    Raises:
      UserError: the variables are not exactly those of the network; all differences are listed.
    """
    differences = difference.report(
        _torch_shapes(expected, keys),
        _torch_shapes({name: value.shape for name, value in variables.items()}, keys),
        keys,
    )
    if differences:
        raise UserError(differences)
    counters = metadata.counters
    state: OrderedDict[str, np.ndarray] = OrderedDict()
    for name, entry in rules.torch_entries(expected, keys).items():
        for key in entry.keys:
            state[key] = rules.to_torch(np.asarray(variables[name]), entry.layout)
        for key in entry.counters:
            # PyTorch does not read the count with a fixed momentum, but requires it.
            state[key] = np.array(counters.get(key, 0), np.int64)
    return {"meta": _meta(metadata), "state_dict": state}


def _torch_shapes(
    shapes: Mapping[str, tuple[int, ...]], keys: TorchKeys
) -> dict[str, tuple[int, ...]]:
    try:
        return rules.torch_shapes(shapes, keys)
    except (KeyError, ValueError) as error:
        raise UserError(f"it has a variable that PyTorch's network has not: {error}") from error


def _meta(metadata: Metadata) -> dict[str, Any]:
    """The imported file's `meta`, with the tuple of class names that JSON made a list."""
    meta = dict(metadata.meta)
    if isinstance(meta.get("CLASSES"), list):
        meta["CLASSES"] = tuple(meta["CLASSES"])
    return meta
