"""Masks whose pixels have the colours of classes."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import decode

Colour = tuple[int, int, int]
NO_CLASS = 254  # in the table of all colours


@dataclass(frozen=True)
class ColourMasks:
    """Reads masks of colours.

    Attributes:
      colours: RGB of each class, by label.
      ignored: RGB of pixels that are ignored.
    """

    colours: tuple[Colour, ...]
    ignored: tuple[Colour, ...] = ()

    def __call__(self, encoded: bytes, name: str, most_pixels: int) -> UInt8[np.ndarray, "h w"]:
        """The labels of a mask.

        Args:
          encoded: the bytes of a file, with RGB, RGBA or a palette; opacity is not looked at.
          name: the file.
          most_pixels: a mask with more is refused.

        Raises:
          UserError: it cannot be decoded, or a pixel has another colour.
        """
        rgb = decode.decode_colours(encoded, name, most_pixels)
        codes = np.dot(rgb, np.array([1 << 16, 1 << 8, 1], np.int32))
        labels: UInt8[np.ndarray, "h w"] = _table(self.colours, self.ignored)[codes]
        if (labels == NO_CLASS).any():
            row, column = np.argwhere(labels == NO_CLASS)[0]
            count = int((labels == NO_CLASS).sum())
            raise UserError(
                f"{name} has the colour {rgb[row, column].tolist()} at row {row}, column {column} "
                f"({count} pixels have no class), and no class has it. Correct the mask, or add "
                'the colour to "palette" or "ignored_colours" of classes.json.'
            )
        return labels


@functools.lru_cache(maxsize=4)
def _table(colours: tuple[Colour, ...], ignored: tuple[Colour, ...]) -> UInt8[np.ndarray, "n"]:
    """The label of every colour, by red * 65536 + green * 256 + blue: 16 MiB."""
    table = np.full(1 << 24, NO_CLASS, np.uint8)
    for label, (red, green, blue) in enumerate(colours):
        table[red << 16 | green << 8 | blue] = label
    for red, green, blue in ignored:
        table[red << 16 | green << 8 | blue] = IGNORED
    return table
