"""The memory of the loader grows neither with the data set nor with the batches."""

import gc
import pathlib
import resource

import numpy as np
import pytest
from loading import small, take

from nonlocal_jax.inputs.example import Example
from nonlocal_jax.inputs.loader import Inputs


class Blank:
    """A source of as many equal tiny examples as one likes."""

    def __init__(self, length):
        self._length = length
        self._example = Example(
            np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3),
            np.arange(256, dtype=np.uint8).reshape(16, 16) % 3,
            "blank",
        )

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        assert 0 <= index < self._length
        return self._example

    def name(self, index):
        return "blank"

    def image_size(self, index):
        return 16, 16


def resident():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_a_million_examples_cost_no_more_than_a_thousand(monkeypatch):
    inputs = small("", crop_size=(16, 16), scale=(16, 16))
    growth = []
    for length in (1000, 1000, 1_000_000):  # the first one pays for what is loaded once
        before = resident()
        monkeypatch.setattr(Inputs, "open", lambda *_, n=length: Blank(n))
        take(20, inputs)
        growth.append(resident() - before)
    assert growth[2] < growth[1] + 4, growth  # MiB; a list of a million numbers has 8 at least


@pytest.mark.soak
def test_memory_stays_flat_over_two_thousand_batches(monkeypatch):
    monkeypatch.setattr(Inputs, "open", lambda *_: Blank(50))
    inputs = small("", crop_size=(16, 16), scale=(16, 16))
    batches = inputs.train_batches()
    for _ in range(300):
        next(batches)
    before = resident()
    for _ in range(2000):
        next(batches)
    assert resident() - before < 6  # MiB: a batch is 4 KiB, and 2000 of them 8 MiB
    batches.close()
