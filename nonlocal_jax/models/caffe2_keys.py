"""Names of layers in the Caffe2 files of the video models. Each module of models/ states its own.

checkpoints/caffe2/rules.py uses them for import and export.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["conv", "linear", "dense", "norm"]


class Row(NamedTuple):
    """A layer, or several that differ in numbers: `{i}` stands for a number in both names.

    Attributes:
      ours: "res{s}/{b}/conv1/conv".
      theirs: "res{s}_{b}_branch2a".
      kind: of layer; it decides the names of its blobs and their layout. linear: a 1x1x1
        convolution in the file. dense: a matrix.
    """

    ours: str
    theirs: str
    kind: Kind


def under(ours: str, theirs: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows of a module with the names that its parent gives it, here and in Caffe2."""
    return tuple(Row(f"{ours}/{row.ours}", f"{theirs}{row.theirs}", row.kind) for row in rows)
