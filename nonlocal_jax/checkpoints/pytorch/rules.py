"""Which PyTorch tensor is which variable of ours: one table, read in both directions.

`{s}`, `{b}`, `{c}`, `{i}` stand for a stage, block, convolution or index, and are the same on both
sides. Each row is a module; what its tensors are called follows from its kind, below the table.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# (ours, PyTorch's, kind)
MODULES = (
    ("backbone/stem/0/conv", "backbone.stem.0", "conv"),
    ("backbone/stem/0/norm", "backbone.stem.1", "norm"),
    ("backbone/stem/1/conv", "backbone.stem.3", "conv"),
    ("backbone/stem/1/norm", "backbone.stem.4", "norm"),
    ("backbone/stem/2/conv", "backbone.stem.6", "conv"),
    ("backbone/stem/2/norm", "backbone.stem.7", "norm"),
    ("backbone/stage{s}/{b}/conv{c}/conv", "backbone.layer{s}.{b}.conv{c}", "conv"),
    ("backbone/stage{s}/{b}/conv{c}/norm", "backbone.layer{s}.{b}.bn{c}", "norm"),
    ("decode_head/convs/{i}/conv", "decode_head.convs.{i}.conv", "conv"),
    ("decode_head/convs/{i}/norm", "decode_head.convs.{i}.bn", "norm"),
    ("decode_head/non_local/g", "decode_head.nl_block.g.conv", "linear"),
    ("decode_head/non_local/theta", "decode_head.nl_block.theta.conv", "linear"),
    ("decode_head/non_local/phi", "decode_head.nl_block.phi.conv", "linear"),
    ("decode_head/non_local/concat_project", "decode_head.nl_block.concat_project.conv", "linear"),
    ("decode_head/non_local/out", "decode_head.nl_block.conv_out.conv", "linear"),
    ("decode_head/non_local/norm", "decode_head.nl_block.conv_out.bn", "norm"),
    ("decode_head/conv_cat/conv", "decode_head.conv_cat.conv", "conv"),
    ("decode_head/conv_cat/norm", "decode_head.conv_cat.bn", "norm"),
    ("decode_head/classifier", "decode_head.conv_seg", "conv"),
    ("auxiliary_head/convs/{i}/conv", "auxiliary_head.convs.{i}.conv", "conv"),
    ("auxiliary_head/convs/{i}/norm", "auxiliary_head.convs.{i}.bn", "norm"),
    ("auxiliary_head/conv_cat/conv", "auxiliary_head.conv_cat.conv", "conv"),
    ("auxiliary_head/conv_cat/norm", "auxiliary_head.conv_cat.bn", "norm"),
    ("auxiliary_head/classifier", "auxiliary_head.conv_seg", "conv"),
)
# V1d's shortcut begins with an average-pool, which counts as number 0.
SHORTCUTS = {
    "v1c": (
        ("backbone/stage{s}/{b}/downsample/conv", "backbone.layer{s}.{b}.downsample.0", "conv"),
        ("backbone/stage{s}/{b}/downsample/norm", "backbone.layer{s}.{b}.downsample.1", "norm"),
    ),
    "v1d": (
        ("backbone/stage{s}/{b}/downsample/conv", "backbone.layer{s}.{b}.downsample.1", "conv"),
        ("backbone/stage{s}/{b}/downsample/norm", "backbone.layer{s}.{b}.downsample.2", "norm"),
    ),
}
# Kind -> our name of a tensor: (PyTorch's name, the layout it has there).
TENSORS = {
    "conv": {"kernel": ("weight", "OIHW"), "bias": ("bias", "C")},
    "linear": {"kernel": ("weight", "OI11"), "bias": ("bias", "C")},
    "norm": {
        "scale": ("weight", "C"),
        "bias": ("bias", "C"),
        "mean": ("running_mean", "C"),
        "var": ("running_var", "C"),
    },
}
# Beside every norm's statistics, PyTorch counts its updates; we don't, and keep the numbers aside.
COUNTER = "num_batches_tracked"
# The ImageNet classifier in backbone files.
IGNORED_IN_BACKBONES = ("fc.",)


class Entry(NamedTuple):
    """One tensor of the PyTorch file: its key, and its layout there."""

    key: str
    layout: str

    @property
    def counter(self) -> str | None:
        """The key of the counter beside a running mean."""
        module, _, tensor = self.key.rpartition(".")
        return f"{module}.{COUNTER}" if tensor == "running_mean" else None


def torch_entries(names: Iterable[str], variant: str) -> dict[str, Entry]:
    """Where the PyTorch file has each of our variables.

    Args:
      names: "backbone/stem/0/conv/kernel", ...
      variant: of the backbone, "v1c" or "v1d".

    Raises:
      KeyError: the table has no such variable, which is an error in this program.
    """
    table = [(_pattern(ours), theirs, kind) for ours, theirs, kind in MODULES + SHORTCUTS[variant]]
    return {name: _entry(name, table) for name in names}


def to_ours(array: np.ndarray, layout: str) -> np.ndarray:
    """OIHW to HWIO, OI11 to IO, C unchanged."""
    if layout == "OIHW":
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    if layout == "OI11":
        return np.ascontiguousarray(array[:, :, 0, 0].T)
    return np.ascontiguousarray(array)


def to_torch(array: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `to_ours`."""
    if layout == "OIHW":
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    if layout == "OI11":
        return np.ascontiguousarray(array.T[:, :, None, None])
    return np.ascontiguousarray(array)


def torch_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape in the PyTorch file of a variable that has `shape` here."""
    if layout == "OIHW":
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    if layout == "OI11":
        inputs, outputs = shape
        return (outputs, inputs, 1, 1)
    return shape


def _pattern(ours: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", ours))


def _entry(name: str, table: list[tuple[re.Pattern[str], str, str]]) -> Entry:
    module, _, tensor = name.rpartition("/")
    for pattern, theirs, kind in table:
        match = pattern.fullmatch(module)
        if match and tensor in TENSORS[kind]:
            torch_tensor, layout = TENSORS[kind][tensor]
            return Entry(f"{theirs.format(**match.groupdict())}.{torch_tensor}", layout)
    raise KeyError(name)
