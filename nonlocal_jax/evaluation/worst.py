"""The images that a network is most wrong about: a few, kept while it is evaluated."""

from typing import NamedTuple

KEPT = 8  # images of an evaluation


class Judged(NamedTuple):
    """How much of one image is right.

    Attributes:
      name: of the image in its split.
      right: labelled pixels that are predicted as their label.
      labelled: all labelled pixels, at least one.
    """

    name: str
    right: int
    labelled: int

    @property
    def accuracy(self) -> float:
        """The share of the labelled pixels that are right."""
        return self.right / self.labelled


class Worst:
    """The images of lowest accuracy among those that were added; of equal ones, the first by name.

    Args:
      count: how many are kept.
    """

    def __init__(self, count: int = KEPT):
        self._count = count
        self._kept: list[Judged] = []

    def add(self, image: Judged) -> None:
        """Adds an image; one without a labelled pixel is left out."""
        if image.labelled:
            self._kept = sorted([*self._kept, image], key=_rank)[: self._count]

    def images(self) -> tuple[Judged, ...]:
        """Those that are kept, the worst first."""
        return tuple(self._kept)


def _rank(image: Judged) -> tuple[float, str]:
    return image.accuracy, image.name
