"""Evaluation batches: every image once, at its own size, with nothing dropped."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging
from jaxtyping import Bool, Int32, UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import sources, transforms
from nonlocal_jax.inputs.datasets import IGNORED


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """Images of one size; rows without an image are black, ignored and not valid.

    Attributes:
      images: one per ratio, resized for the network, uint8 [n, h_r, w_r, 3] RGB.
      label: at the original size, uint8 [n, h, w], 255 for ignored.
      valid: whether a row holds an image, bool [n].
      index: of the image in the split, int32 [n], -1 where there is none.
    """

    images: tuple[UInt8[np.ndarray, "n h_r w_r 3"], ...]
    label: UInt8[np.ndarray, "n h w"]
    valid: Bool[np.ndarray, "n"]
    index: Int32[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A batch to be: its images' original size, and which images they are."""

    size: tuple[int, int]
    indices: tuple[int, ...]


class EvalBatches:
    """One host's part of the batches of an evaluation, by index.

    Args:
      source: the split.
      scale: long and short side that ratio 1 fits an image into.
      ratios: one network input each.
      batch_size: images in a batch, over all hosts.
      rows: which of them this host holds.
      skip_bad: leave bad examples out and log them, rather than raise.
    """

    def __init__(
        self,
        source: sources.Source,
        *,
        scale: tuple[int, int],
        ratios: Sequence[float],
        batch_size: int,
        rows: slice,
        skip_bad: bool,
    ):
        self._source = source
        self._scale = scale
        self._ratios = ratios
        self._rows = rows
        self._skip_bad = skip_bad
        self._plans = self._group_by_size(batch_size)
        self._host_batch = rows.stop - rows.start

    def __len__(self) -> int:
        return len(self._plans)

    def __getitem__(self, index: int) -> EvalBatch:
        plan = self._plans[index]
        batch = self._blank(plan.size)
        for row, example_index in enumerate(plan.indices[self._rows]):
            try:
                example = self._source[example_index]
            except UserError as error:
                self._skip(error)
                continue
            for images in batch.images:
                images[row] = transforms.resize_image(example.image, images.shape[1:3])
            batch.label[row] = example.label
            batch.valid[row] = True
            batch.index[row] = example_index
        return batch

    def _blank(self, size: tuple[int, int]) -> EvalBatch:
        count = self._host_batch
        sizes = transforms.test_sizes(*size, self._scale, self._ratios)
        return EvalBatch(
            images=tuple(np.zeros((count, *resized, 3), np.uint8) for resized in sizes),
            label=np.full((count, *size), IGNORED, np.uint8),
            valid=np.zeros(count, bool),
            index=np.full(count, -1, np.int32),
        )

    def _group_by_size(self, batch_size: int) -> list[_Plan]:
        """Batches in the order in which they fill up, then those that stay short."""
        waiting: dict[tuple[int, int], list[int]] = {}
        plans = []
        for index in range(len(self._source)):
            try:
                size = self._source.image_size(index)
            except UserError as error:
                self._skip(error)
                continue
            group = waiting.setdefault(size, [])
            group.append(index)
            if len(group) == batch_size:
                plans.append(_Plan(size, tuple(waiting.pop(size))))
        return plans + [_Plan(size, tuple(group)) for size, group in waiting.items()]

    def _skip(self, error: UserError) -> None:
        if not self._skip_bad:
            raise error
        logging.warning("Left out of the evaluation: %s", error)
