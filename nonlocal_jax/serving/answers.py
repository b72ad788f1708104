"""The answers to a picture: a mask, an overlay, or JSON."""

import json
import time
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.reporting import outputs, pictures

Kind = Literal["mask", "overlay", "json"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHOICES = {  # of the query, by kind; the first one is the default
    "mask": {},
    "overlay": {"format": ("png", "jpeg"), "legend": ("true", "false")},
    "json": {},
}

Picture = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]


class Answer(NamedTuple):
    """What a client asks for.

    Attributes:
      kind: a mask, an overlay, or JSON.
      format: of an overlay: "png" or "jpeg".
      legend: whether an overlay has a legend.
    """

    kind: Kind
    format: str = "png"
    legend: bool = True

    @classmethod
    def parse(cls, kind: Kind, query: Iterable[tuple[str, str]]) -> "Answer":
        """The answer of a path and its query.

        Raises:
          UserError: there is no such key or value, or a key is given twice.
        """
        choices, given = CHOICES[kind], dict[str, str]()
        for key, value in query:
            if key not in choices:
                known = f"it takes {' and '.join(choices)}" if choices else "it takes none"
                raise UserError(f"/{kind} has no option {key[:50]!r}: {known}.")
            if key in given:
                raise UserError(f"{key} is given twice.")
            if value not in choices[key]:
                raise UserError(f"{key} is {value[:50]!r}; it must be {' or '.join(choices[key])}.")
            given[key] = value
        return cls(kind, given.get("format", "png"), given.get("legend", "true") == "true")

    @property
    def media_type(self) -> str:
        """The MIME type."""
        return "application/json" if self.kind == "json" else f"image/{self.format}"


class Renderer:
    """Makes answers with the classes of a checkpoint."""

    def __init__(self, restored: Restored):
        self._names, self._palette = restored.class_names, restored.palette

    def render(self, answer: Answer, image: Picture, mask: Mask, begun: float) -> bytes:
        """The bytes of an answer.

        Args:
          answer: what is asked for.
          image: the picture.
          mask: its class indices.
          begun: when the request came, by `time.perf_counter`.
        """
        if answer.kind == "mask":
            return pictures.encode(outputs.indexed(mask, self._palette), "PNG")
        if answer.kind == "json":
            return self._json(mask, time.perf_counter() - begun)
        if answer.legend:
            tinted = outputs.overlay(image, mask, self._names, self._palette)
        else:
            tinted = pictures.overlay(image, mask, self._palette)
        return pictures.encode(Image.fromarray(tinted), answer.format.upper())

    def _json(self, mask: Mask, seconds: float) -> bytes:
        counts = np.bincount(mask.ravel(), minlength=len(self._names))
        present = sorted(np.flatnonzero(counts).tolist(), key=lambda label: -counts[label])
        classes = [
            {
                "index": label,
                "name": self._names[label],
                "colour": self._palette[label].tolist(),
                "pixels": int(counts[label]),
                "share": round(float(counts[label] / mask.size), 6),
            }
            for label in present
        ]
        height, width = mask.shape
        content = {
            "height": height,
            "width": width,
            "seconds": round(seconds, 4),
            "classes": classes,
        }
        return json.dumps(content).encode()
