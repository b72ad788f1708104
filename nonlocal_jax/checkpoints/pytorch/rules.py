"""How layers of each kind are stored in PyTorch files: names and layouts of their tensors.

The modules themselves state the names of their layers, in rows (see models/torch_keys.py). Import
and export both use these.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from nonlocal_jax.models.torch_keys import Kind, Row, TorchKeys

# Kind -> our name of a tensor: (PyTorch's name, the layout it has there).
TENSORS: dict[Kind, dict[str, tuple[str, str]]] = {
    "conv": {"kernel": ("weight", "OIHW"), "bias": ("bias", "C")},
    "linear": {"kernel": ("weight", "OI11"), "bias": ("bias", "C")},
    "norm": {
        "scale": ("weight", "C"),
        "bias": ("bias", "C"),
        "mean": ("running_mean", "C"),
        "var": ("running_var", "C"),
    },
    "layer_norm": {"scale": ("weight", "C11"), "bias": ("bias", "C11")},
    "factor": {"scale": ("scale", "C")},
    "bases": {"bases": ("bases", "1CK")},
}
# PyTorch counts the updates of each norm's statistics. The counts are kept in the metadata.
COUNTER = "num_batches_tracked"


class Entry(NamedTuple):
    """One tensor of the PyTorch file: its key, and its layout there.

    Attributes:
      also: another key of the same tensor, if the file holds it twice; otherwise empty.
    """

    key: str
    layout: str
    also: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the tensor."""
        return (self.key, self.also) if self.also else (self.key,)

    @property
    def counters(self) -> tuple[str, ...]:
        """The keys of the counters beside a running mean; () beside another tensor."""
        parts = [key.rpartition(".") for key in self.keys]
        return tuple(f"{module}.{COUNTER}" for module, _, end in parts if end == "running_mean")


def torch_entries(names: Iterable[str], keys: TorchKeys) -> dict[str, Entry]:
    """The tensor of a PyTorch file for each variable.

    Args:
      names: "backbone/stem/0/conv/kernel", ...
      keys: of the network.

    Raises:
      KeyError: no row has such a variable, which is an error in this program.
    """
    patterns = [(pattern(row.ours), row) for row in keys.rows]
    return {name: _entry(name, patterns) for name in names}


def torch_shapes(
    shapes: Mapping[str, tuple[int, ...]], keys: TorchKeys
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a PyTorch file, by its key; for variables of these shapes.

    Raises:
      KeyError: see `torch_entries`.
    """
    return {
        key: torch_shape(tuple(shapes[name]), entry.layout)
        for name, entry in torch_entries(shapes, keys).items()
        for key in entry.keys
    }


def to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    """OIHW to HWIO, OI11 to IO, C11 to C, 1CK to CK, C unchanged: a vector or a number."""
    if layout == "OIHW":
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if layout == "OI11":
        return np.ascontiguousarray(array[:, :, 0, 0].T)
    if layout == "C11":
        return np.ascontiguousarray(array[:, 0, 0])
    if layout == "1CK":
        return np.ascontiguousarray(array[0])
    if array.ndim == 0:
        return array  # ascontiguousarray would make a vector of it
    return np.ascontiguousarray(array)


def to_torch(array: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `to_ours`."""
    if layout == "OIHW":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if layout == "OI11":
        return np.ascontiguousarray(array.T[:, :, None, None])
    if layout == "C11":
        return np.ascontiguousarray(array[:, None, None])
    if layout == "1CK":
        return np.ascontiguousarray(array[None])
    if array.ndim == 0:
        return array
    return np.ascontiguousarray(array)


def torch_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in the PyTorch file of a variable that has `shape` here."""
    if layout == "OIHW":
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    if layout == "OI11":
        inputs, outputs = shape
        return (outputs, inputs, 1, 1)
    if layout == "C11":
        return (*shape, 1, 1)
    if layout == "1CK":
        return (1, *shape)
    return shape


def pattern(ours: str) -> re.Pattern[str]:
    """A regular expression of our name of a row, with a group for each number."""
    return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", ours))


def _entry(name: str, patterns: list[tuple[re.Pattern[str], Row]]) -> Entry:
    module, _, tensor = name.rpartition("/")
    for pattern, row in patterns:
        match = pattern.fullmatch(module)
        if match and tensor in TENSORS[row.kind]:
            torch_tensor, layout = TENSORS[row.kind][tensor]
            names = (row.theirs, row.also) if row.also else (row.theirs,)
            found = [f"{n.format(**match.groupdict())}.{torch_tensor}" for n in names]
            return Entry(found[0], layout, *found[1:])
    raise KeyError(name)
