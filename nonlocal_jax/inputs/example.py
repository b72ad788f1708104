"""An example, and the interface of sources of examples."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


class Example(NamedTuple):
    """An image with its labels.

    Attributes:
      image: RGB, uint8 [h, w, 3].
      label: train labels, uint8 [h, w], 255 for ignored.
      name: name of the image, unique in its split.
    """

    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    name: str


@runtime_checkable
class Source(Protocol):
    """Examples by index. A source is picklable, and an index always gives the same example."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """The name of an example, without decoding it."""

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, without decoding it if possible."""
