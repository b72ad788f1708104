"""How an image is evaluated: its sizes, mirrored or not, as a whole or in windows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.buckets import Bucket
from nonlocal_jax.inputs.transforms import test_sizes
from nonlocal_jax.ops.dims import Dim, larger

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Overlapping windows that cover an image. The last ones are moved back into the image.

    Attributes:
      size: height and width. A smaller image is one window.
      stride: distance between windows, at most their size.

    Raises:
      UserError: some pixels would be in no window.
    """

    size: Size
    stride: Size

    def __post_init__(self) -> None:
        if not all(1 <= s <= w for s, w in zip(self.stride, self.size, strict=True)):
            raise UserError(
                f"Windows of {self.size} that are {self.stride} apart leave pixels out: the "
                "stride must be at least 1 and at most the window's size."
            )

    def count(self, axis: int, length: Dim) -> Dim:
        """The number of windows that cover an axis of `length` pixels."""
        beyond = larger(length - self.size[axis], 0)
        return (beyond + self.stride[axis] - 1) // self.stride[axis] + 1

    def starts(
        self, axis: int, lengths: Int[Array, "*n"], longest: Dim
    ) -> Int[Array, "*n windows"]:
        """First pixels of the windows of the longest axis. Shorter axes repeat their last one."""
        places = jnp.arange(self.count(axis, longest)) * self.stride[axis]
        return jnp.minimum(places, jnp.maximum(lengths[..., None] - self.size[axis], 0))

    def cost(self, height: int, width: int) -> int:
        """Pixels that the network processes for an image."""
        rows, columns = min(height, self.size[0]), min(width, self.size[1])
        windows: int = self.count(0, height) * self.count(1, width)
        return windows * rows * columns


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How class indices are computed for an image.

    Attributes:
      scale: long and short side that the image is fitted into, with its aspect ratio.
      align_corners: for both resizes of the logits.
      ratios: the image is evaluated at `scale` times each of them.
      flip: each size is also evaluated mirrored. Probabilities of several results are averaged.
      windows: the windows of a sliding evaluation; None for the whole image.
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
          options: the section `eval` of the config.
          align_corners: that of the model.
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
        """The protocol of one pass over the whole image, for results that can't be averaged."""
        return Protocol(self.scale, self.align_corners)

    def input_sizes(self, size: Size) -> list[Size]:
        """The sizes at which an image of an original `size` is evaluated, one per ratio."""
        return test_sizes(*size, self.scale, self.ratios)

    def cost(self, height: int, width: int) -> int:
        """Pixels that the network processes for an input of this size."""
        return height * width if self.windows is None else self.windows.cost(height, width)

    def windows_of(self, size: tuple[Dim, Dim]) -> tuple[Dim, Dim]:
        """How many windows there are along each axis of an input of this size."""
        if self.windows is None:
            return 1, 1
        return self.windows.count(0, size[0]), self.windows.count(1, size[1])

    def meets_padding(self, bucket: Bucket) -> bool:
        """Whether any image of a bucket is smaller than its array, or than a window."""
        seen = np.array(bucket.inputs)
        if self.windows is not None:
            seen = np.minimum(seen, self.windows.size)
        return bool((np.array(bucket.smallest) < seen).any())
