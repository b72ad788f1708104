"""How an image is evaluated: at which sizes, mirrored or not, whole or by windows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.buckets import Bucket
from nonlocal_jax.inputs.transforms import test_sizes

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Overlapping windows that cover an image, `stride` apart; the last are moved back inside.

    Attributes:
      size: height and width; a smaller image is its own only window.
      stride: from window to window, at most the window's own size.

    Raises:
      UserError: windows this far apart would leave pixels out.
    """

    size: Size
    stride: Size

    def __post_init__(self) -> None:
        if not all(1 <= s <= w for s, w in zip(self.stride, self.size, strict=True)):
            raise UserError(
                f"Windows of {self.size} that are {self.stride} apart leave pixels out: the "
                "stride must be at least 1 and at most the window's size."
            )

    def count(self, axis: int, length: int) -> int:
        """How many windows cover an axis of `length` pixels."""
        return -(-max(length - self.size[axis], 0) // self.stride[axis]) + 1

    def starts(
        self, axis: int, lengths: Int[Array, "*n"], longest: int
    ) -> Int[Array, "*n windows"]:
        """Where windows begin: as many as the longest axis needs; others repeat their last."""
        places = jnp.arange(self.count(axis, longest)) * self.stride[axis]
        return jnp.minimum(places, jnp.maximum(lengths[..., None] - self.size[axis], 0))

    def cost(self, height: int, width: int) -> int:
        """Pixels that the network sees of an image."""
        rows, columns = min(height, self.size[0]), min(width, self.size[1])
        return self.count(0, height) * self.count(1, width) * rows * columns


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How class indices are found for an image.

    Attributes:
      scale: long and short side that the image is fitted into, its aspect kept.
      align_corners: of both resizes of the logits.
      ratios: each one gives a size to evaluate at, `scale` times it.
      flip: every size is also evaluated mirrored. Several results are averaged as probabilities.
      windows: what the network sees one at a time, or None for the whole image.
    """

    scale: Size
    align_corners: bool
    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    windows: Windows | None = None

    @classmethod
    def of(cls, options: schema.Eval, align_corners: bool, tta: bool = False) -> "Protocol":
        """The protocol of a config.

        Args:
          options: the config's section `eval`.
          align_corners: the model's.
          tta: average over several sizes and mirrored images, as `options` say.
        """
        windows = Windows(options.window, options.stride) if options.mode == "slide" else None
        return cls(
            scale=options.scale,
            align_corners=align_corners,
            ratios=options.tta_ratios if tta else (1.0,),
            flip=tta and options.tta_flip,
            windows=windows,
        )

    def once(self) -> "Protocol":
        """One pass over the whole image at `scale`: for what can't be averaged."""
        return Protocol(self.scale, self.align_corners)

    def input_sizes(self, size: Size) -> list[Size]:
        """The sizes at which an image of an original `size` is evaluated, one per ratio."""
        return test_sizes(*size, self.scale, self.ratios)

    def cost(self, height: int, width: int) -> int:
        """Pixels that the network sees of an input of this size."""
        return height * width if self.windows is None else self.windows.cost(height, width)

    def meets_padding(self, bucket: Bucket) -> bool:
        """Whether some image of a bucket is smaller than the array that the network sees it in."""
        seen = np.array(bucket.inputs)
        if self.windows is not None:
            seen = np.minimum(seen, self.windows.size)
        return bool((np.array(bucket.smallest) < seen).any())
