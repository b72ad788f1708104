"""The base class of the builders of images: pairs of image and mask.

A builder lists its pairs, and converts a mask file to train ids. Records hold the bytes of the
image file, the label as PNG of train ids (255 is ignored), and the name.
"""

import abc
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from nonlocal_jax.config import schema
from nonlocal_jax.inputs import datasets, decode
from nonlocal_jax.inputs.datasets.dataset import SPLITS, Dataset, Pair
from nonlocal_jax.inputs.preparation import verification
from nonlocal_jax.inputs.preparation.records import Record, RecordsBuilder, parallel


class SegmentationBuilder(RecordsBuilder[Pair], skip_registration=True):
    """Verifies and writes pairs of image and mask; see RecordsBuilder."""

    dataset: Dataset

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.findings = {split: verification.Findings() for split in SPLITS}

    def describe(self) -> Dataset:
        """See RecordsBuilder."""
        return datasets.describe(schema.Data(name=self.name))

    def features(self) -> dict[str, Any]:
        """See RecordsBuilder."""
        return {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "name": tfds.features.Text(),
        }

    @abc.abstractmethod
    def list_pairs(self, source: pathlib.Path, split: str) -> list[Pair]:
        """The examples of a split ("train", "val") in order; unpacks archives where needed.

        Raises:
          UserError: something is missing; it says what.
        """

    def list_examples(self, source: pathlib.Path, split: str) -> list[Pair]:
        """See RecordsBuilder."""
        return self.list_pairs(source, split)

    def read_label(self, pair: Pair) -> UInt8[np.ndarray, "h w"]:
        """The train ids of an example.

        Raises:
          UserError: the mask file cannot be read.
        """
        label = decode.decode_label(pair.label_path.read_bytes(), str(pair.label_path))
        return label if pair.label_table is None else pair.label_table[label]

    def report(self) -> str:
        """What was found in the examples, as a table."""
        return verification.table(
            self.findings, dict(self.dataset.counts), self.dataset.num_classes
        )

    def file_of(self, example: Pair) -> pathlib.Path:
        """See RecordsBuilder."""
        return example.image_path

    def records(self, examples: list[Pair], split: str) -> Iterator[Record]:
        """See RecordsBuilder."""
        for pair, image, label, encoded_label in parallel(self._verified, examples):
            self.findings[split].add(image, label, encoded_label)
            yield pair.name, {"image": image, "label": encoded_label, "name": pair.name}

    def _verified(self, pair: Pair) -> tuple[Pair, bytes, UInt8[np.ndarray, "h w"], bytes]:
        image, label = pair.image_path.read_bytes(), self.read_label(pair)
        verification.check(image, label, self.dataset.num_classes, str(pair.image_path))
        return pair, image, label, verification.encode_label(label)
