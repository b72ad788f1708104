"""Which tensor of a PyTorch file is which variable: the rows that every module states of its own.

checkpoints/pytorch/rules.py reads them in both directions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["conv", "linear", "norm"]


class Row(NamedTuple):
    """A layer, or several that differ in a number: `{i}` and the like stand for one in both names.

    Attributes:
      ours: "convs/{i}/conv".
      theirs: "convs.{i}.conv".
      kind: of layer, which says what its tensors are called, and how they are laid out.
    """

    ours: str
    theirs: str
    kind: Kind


@dataclass(frozen=True)
class TorchKeys:
    """The rows of a whole network, or of its backbone.

    Attributes:
      rows: one a layer.
      describe: says what backbone the keys of its file are of, as "R-50 (V1c)".
      ignored: beginnings of keys that a file of backbone weights has besides, as its classifier's.
    """

    rows: tuple[Row, ...]
    describe: Callable[[Iterable[str]], str]
    ignored: tuple[str, ...] = ()


def under(ours: str, theirs: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of a module as those of its parent, which calls it `ours`, and PyTorch `theirs`."""
    return tuple(Row(f"{ours}/{row.ours}", f"{theirs}.{row.theirs}", row.kind) for row in rows)


def conv_norm(ours: str, theirs: str) -> tuple[Row, Row]:
    """The rows of a ConvNorm, which is a ConvModule there."""
    return Row(f"{ours}/conv", f"{theirs}.conv", "conv"), Row(
        f"{ours}/norm", f"{theirs}.bn", "norm"
    )
