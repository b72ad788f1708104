"""Where the input pipeline's time goes, stage by stage and as a whole."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from nonlocal_jax.inputs import sources, transforms


def stage_seconds(
    source: sources.EncodedSource,
    augmentations: Sequence[grain.transforms.RandomMap],
    crop_size: tuple[int, int],
    samples: int,
) -> dict[str, float]:
    """Median seconds an example spends in each stage, by the stage's name, in order.

    Args:
      source: where the examples come from.
      augmentations: grain transforms, in order.
      crop_size: height and width to pad to.
      samples: how many examples to time.
    """
    seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds.setdefault(stage, []).append(time.perf_counter() - start)

    rng = np.random.default_rng(0)
    for index in itertools.islice(itertools.cycle(range(len(source))), samples):
        with timed("read"):
            encoded = source.encoded(index)
        with timed("decode image"):
            image = source.decode_image(encoded)
        with timed("decode mask"):
            label = source.decode_label(encoded, image)
        element = {"image": image, "label": label}
        for step in augmentations:
            with timed(type(step).__name__):
                element = step.random_map(element, rng)
        with timed("Pad"):
            transforms.pad(element, crop_size)
    return {stage: float(np.median(values)) for stage, values in seconds.items()}


def examples_per_second(batches: Iterator[dict[str, np.ndarray]], samples: int) -> float:
    """The rate at which batches come once the first one is there."""
    count = len(next(iter(next(batches).values())))
    start, seen = time.perf_counter(), 0
    while seen < samples:
        next(batches)
        seen += count
    return seen / (time.perf_counter() - start)
