"""Data sets that a test has prepared, and what must be in them."""

import io
import pathlib

import numpy as np
import synthetic_trees
import tensorflow_datasets as tfds
from PIL import Image

from nonlocal_jax.inputs.preparation.prepare import prepare


def run(name: str, source: pathlib.Path, output: pathlib.Path, **options: bool) -> pathlib.Path:
    return prepare(name, source, output, allow_incomplete=True, **options).folder


def records(prepared: pathlib.Path, split: str) -> list[dict[str, bytes]]:
    raw = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    builder = tfds.builder_from_directory(str(prepared))
    return list(builder.as_data_source(split=split, decoders=raw))


def stem(name: bytes) -> str:
    return str(pathlib.PurePosixPath(name.decode()).with_suffix("")).removesuffix("_leftImg8bit")


def check_records(prepared: pathlib.Path, expected: synthetic_trees.Splits) -> None:
    for split, examples in expected.items():
        found = records(prepared, split)
        assert [stem(record["name"]) for record in found] == [e.name for e in examples]
        for record, example in zip(found, examples, strict=True):
            label = Image.open(io.BytesIO(record["label"]))
            assert (label.format, label.mode) == ("PNG", "L")
            np.testing.assert_array_equal(np.asarray(label), example.label)
            image = Image.open(io.BytesIO(record["image"])).convert("RGB")
            np.testing.assert_array_equal(np.asarray(image), example.image)
