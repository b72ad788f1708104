"""Where the input pipeline's time goes: `python -m nonlocal_jax.inputs.timing --config=...`.

One thread runs every stage for the same examples, one after the other; then the whole pipeline runs
as in training. Compare figures taken in one run only: machines swing.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from nonlocal_jax import cli
from nonlocal_jax.inputs import decode, loader, sources, transforms

SAMPLES = flags.DEFINE_integer("samples", 200, "Examples to time.")


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
            image = decode.decode_image(encoded.image, encoded.image_at)
        with timed("decode mask"):
            label = source.decode_label(encoded, image)
        element = {"image": image, "label": label}
        for step in augmentations:
            with timed(type(step).__name__):
                element = step.random_map(element, rng)
        with timed("Pad"):
            transforms.pad(element, crop_size)
    return {stage: float(np.median(values)) for stage, values in seconds.items()}


def images_per_second(batches: Iterator[loader.Batch], samples: int) -> float:
    """The rate at which batches come once the first one is there."""
    count = len(next(batches)["image"])
    start, seen = time.perf_counter(), 0
    while seen < samples:
        next(batches)
        seen += count
    return seen / (time.perf_counter() - start)


def _main() -> None:
    config = cli.config()
    source = loader.open_source(config, "train")
    if not isinstance(source, sources.EncodedSource):
        print(f"{config.data.name} is made up in memory: there is nothing to read or decode.")
    else:
        crop_size = tuple(config.data.crop_size)
        stages = stage_seconds(source, loader.augmentations(config), crop_size, SAMPLES.value)
        print(f"{'stage, one thread':<24}{'ms':>8}{'images/s':>12}")
        for stage, seconds in [*stages.items(), ("together", sum(stages.values()))]:
            print(f"{stage:<24}{seconds * 1e3:8.2f}{1 / seconds:12.0f}")
    batches = loader.train_batches(config)
    print(f"whole pipeline: {images_per_second(batches, SAMPLES.value):.0f} images/s")


if __name__ == "__main__":
    cli.run(_main)
