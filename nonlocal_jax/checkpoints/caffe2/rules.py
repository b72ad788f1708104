"""How layers of each kind are stored in Caffe2 files: names and layouts of their blobs.

The modules themselves state the names of their layers, in rows (see models/caffe2_keys.py). Import
and export both use these.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nonlocal_jax.checkpoints.pytorch.rules import pattern
from nonlocal_jax.models.caffe2_keys import Kind, Row

# Kind -> our name of a blob: (the end of its name in Caffe2, the layout it has there).
BLOBS: dict[Kind, dict[str, tuple[str, str]]] = {
    "conv": {"kernel": ("_w", "OITHW")},
    "linear": {"kernel": ("_w", "OI111"), "bias": ("_b", "C")},
    "dense": {"kernel": ("_w", "OI"), "bias": ("_b", "C")},
    # Despite its name, `riv` ("running inverse variance") is the variance itself.
    "norm": {
        "scale": ("_s", "C"),
        "bias": ("_b", "C"),
        "mean": ("_rm", "C"),
        "var": ("_riv", "C"),
    },
}
MOMENTUM = "_momentum"  # behind the name of each trained blob


class Entry(NamedTuple):
    """One blob of the Caffe2 file: its name, and its layout there."""

    key: str
    layout: str


def entries(names: Iterable[str], rows: Iterable[Row]) -> dict[str, Entry]:
    """The blob of a Caffe2 file for each variable.

    Args:
      names: "backbone/stem/conv/kernel", ...
      rows: of the network.

    Raises:
      KeyError: no row has such a variable, which is an error in this program.
    """
    patterns = [(pattern(row.ours), row) for row in rows]
    found = {}
    for name in names:
        module, _, blob = name.rpartition("/")
        for expression, row in patterns:
            match = expression.fullmatch(module)
            if match and blob in BLOBS[row.kind]:
                end, layout = BLOBS[row.kind][blob]
                found[name] = Entry(row.theirs.format(**match.groupdict()) + end, layout)
                break
        else:
            raise KeyError(name)
    return found


def to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    """OITHW to THWIO, OI111 and OI to IO, C unchanged."""
    if layout == "OITHW":
        return np.ascontiguousarray(array.transpose(2, 3, 4, 1, 0))
    if layout in ("OI111", "OI"):
        return np.ascontiguousarray(array.reshape(array.shape[:2]).T)
    return np.ascontiguousarray(array)


def to_caffe2(array: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `to_ours`."""
    if layout == "OITHW":
        return np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2))
    if layout in ("OI111", "OI"):
        return np.ascontiguousarray(array.T.reshape(caffe2_shape(array.shape, layout)))
    return np.ascontiguousarray(array)


def caffe2_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in the Caffe2 file of a variable that has `shape` here."""
    if layout == "OITHW":
        frames, height, width, inputs, outputs = shape
        return (outputs, inputs, frames, height, width)
    if layout in ("OI111", "OI"):
        inputs, outputs = shape
        return (outputs, inputs) + (1, 1, 1) * (layout == "OI111")
    return shape
