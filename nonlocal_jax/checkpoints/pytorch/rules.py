"""How layers of each kind are stored in PyTorch files: names and layouts of their tensors.

The modules themselves state the names of their layers, in rows (see models/torch_keys.py). Import
and export both use these.
"""

import re
from collections.abc import Iterable
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
    """One tensor of the PyTorch file: its key, and its layout there."""

    key: str
    layout: str

    @property
    def counter(self) -> str | None:
        """The key of the counter beside a running mean."""
        module, _, tensor = self.key.rpartition(".")
        return f"{module}.{COUNTER}" if tensor == "running_mean" else None


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
            return Entry(f"{row.theirs.format(**match.groupdict())}.{torch_tensor}", layout)
    raise KeyError(name)
