"""Names of layers in PyTorch files. Each module of models/ states its own, as rows.

checkpoints/pytorch/rules.py uses them for import and export.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["conv", "linear", "norm", "layer_norm", "factor", "bases"]


class Row(NamedTuple):
    """A layer, or several that differ in numbers: `{i}` stands for a number in both names.

    Attributes:
      ours: "convs/{i}/conv".
      theirs: "convs.{i}.conv".
      kind: of layer; it decides the names of its tensors and their layout.
      also: another name there, if a file holds the layer twice.
    """

    ours: str
    theirs: str
    kind: Kind
    also: str = ""


def describe_unknown(keys: Iterable[str]) -> str:
    """The description of a backbone without names in PyTorch files."""
    return "a backbone that PyTorch files do not have"


@dataclass(frozen=True)
class TorchKeys:
    """The rows of a whole network, or of its backbone.

    Attributes:
      rows: one for each layer.
      describe: names the backbone whose keys it is given: "R-50 (V1c)".
      ignored: prefixes of keys in files of backbone weights that are not used: its classifier.
      renamed: prefixes of keys in such files, and what the rows have in their place. They are
        replaced in a file that has all of them.
    """

    rows: tuple[Row, ...]
    describe: Callable[[Iterable[str]], str] = describe_unknown
    ignored: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()


def under(ours: str, theirs: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of a module with the names that its parent gives it, here and in PyTorch."""
    return tuple(
        Row(
            f"{ours}/{row.ours}",
            f"{theirs}.{row.theirs}",
            row.kind,
            row.also and f"{theirs}.{row.also}",
        )
        for row in rows
    )


def conv_norm(ours: str, theirs: str, also: str = "") -> tuple[Row, Row]:
    """The rows of a ConvNorm, which is a ConvModule in MMSegmentation; `also` is as in a Row."""
    return (
        Row(f"{ours}/conv", f"{theirs}.conv", "conv", also and f"{also}.conv"),
        Row(f"{ours}/norm", f"{theirs}.bn", "norm", also and f"{also}.bn"),
    )
