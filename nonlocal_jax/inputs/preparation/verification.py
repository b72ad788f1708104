"""Verifies examples before they are written, and reports on them in a table."""

import dataclasses
from collections import Counter

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import decode, sources


@dataclasses.dataclass
class Findings:
    """Statistics of the examples of a split.

    Attributes:
      count: number of examples.
      sizes: how many images there are of each (height, width).
      pixels: how many pixels have each label, 256 numbers.
      image_bytes, label_bytes: encoded size of all images and of all labels.
    """

    count: int = 0
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    pixels: Int64[np.ndarray, "256"] = dataclasses.field(
        default_factory=lambda: np.zeros(256, np.int64)
    )
    image_bytes: int = 0
    label_bytes: int = 0

    def add(self, image: bytes, label: UInt8[np.ndarray, "h w"], encoded_label: bytes) -> None:
        """Adds one example."""
        self.count += 1
        self.sizes[label.shape] += 1
        self.pixels += np.bincount(label.ravel(), minlength=256)
        self.image_bytes += len(image)
        self.label_bytes += len(encoded_label)


def check(image: bytes, label: UInt8[np.ndarray, "h w"], num_classes: int, name: str) -> None:
    """Decodes an image as training does, and compares its label with it.

    Args:
      image: encoded.
      label: train ids.
      num_classes: how many train ids there are.
      name: name of the example in errors.

    Raises:
      UserError: the image is damaged, the label has another size or a value that is no class.
    """
    try:
        decoded = decode.decode_image(image, name)
    except UserError as error:
        reason = str(error).partition(". ")[0].removesuffix(".")
        raise UserError(f"{reason}. Download or copy it again.") from error
    sources.check_example(decoded, label, num_classes, f"the mask of {name}")


def encode_label(label: UInt8[np.ndarray, "h w"]) -> bytes:
    """A label as PNG with one 8-bit channel."""
    return cv2.imencode(".png", label)[1].tobytes()


def table(findings: dict[str, Findings], published: dict[str, int], num_classes: int) -> str:
    """The statistics, a line for each split."""
    lines = [
        f"{'split':<7}{'images':>8}{'published':>11}  {'height x width':<21}{'labels':<9}"
        f"{'ignored':>8}{'images MB':>11}{'labels MB':>11}"
    ]
    for split, found in findings.items():
        seen = np.flatnonzero(found.pixels[:IGNORED])
        labels = f"{seen[0]}..{seen[-1]}" if seen.size else "none"
        ignored = found.pixels[IGNORED] / found.pixels.sum()
        lines.append(
            f"{split:<7}{found.count:>8}{published[split]:>11}  {_sizes(found):<21}{labels:<9}"
            f"{ignored:>8.1%}{found.image_bytes / 1e6:>11.1f}{found.label_bytes / 1e6:>11.1f}"
        )
    for split, found in findings.items():
        absent = [str(c) for c in range(num_classes) if not found.pixels[c]]
        if absent:
            lines.append(f"{split} never shows the classes {', '.join(absent)}.")
    return "\n".join(lines)


def _sizes(found: Findings) -> str:
    heights, widths = zip(*found.sizes, strict=True)
    smallest, largest = f"{min(heights)}x{min(widths)}", f"{max(heights)}x{max(widths)}"
    return smallest if smallest == largest else f"{smallest}..{largest}"
