"""Shows what the network is trained on: `python -m nonlocal_jax.browse --config=configs/camvid.py`.

Writes a contact sheet of augmented examples, each beside itself with its mask over it, and prints
how often each class occurs.
"""

import itertools
from collections.abc import Iterable

import numpy as np
from absl import flags
from jaxtyping import Int64, UInt8
from ml_collections import ConfigDict

from nonlocal_jax.config import command_line
from nonlocal_jax.inputs import loader, sources
from nonlocal_jax.inputs.datasets import datasets
from nonlocal_jax.reporting import pictures

OUTPUT = flags.DEFINE_string("output", "sheet.png", "Where the contact sheet goes.")
COUNT = flags.DEFINE_integer("count", 16, "Examples on the sheet.", lower_bound=1)
MASKS = flags.DEFINE_integer("masks", 200, "Masks to count classes in.", lower_bound=1)

TILE = 320  # pixels, the longer side of a picture on the sheet
_PADDING = 128  # grey level where there is no image


def contact_sheet(config: ConfigDict, count: int) -> UInt8[np.ndarray, "h w 3"]:
    """The run's first `count` augmented examples, with and without masks, and the legend.

    Raises:
      UserError: the data set is not there, or an example is bad.
    """
    dataset = loader.dataset(config)
    examples = loader.train_examples(config, loader.open_source(config, "train"))
    tiles, seen = [], np.zeros(256, bool)
    for index in range(count):
        example = examples[index]
        image, label = example["image"], example["label"]
        height, width = example["size"]
        image[height:], image[:, width:] = _PADDING, _PADDING
        seen[np.unique(label)] = True
        masked = pictures.overlay(image, label, dataset.palette)
        pair = np.concatenate([image, masked], axis=1)
        tiles.append(pictures.shrink(pair, 2 * TILE))
    sheet = pictures.grid(tiles, columns=2 if count > 2 else 1)
    shown = np.flatnonzero(seen[: dataset.num_classes])
    names = [dataset.class_names[label] for label in shown]
    return pictures.stack([sheet, pictures.legend(names, dataset.palette[shown], sheet.shape[1])])


def class_frequencies(
    labels: Iterable[UInt8[np.ndarray, "h w"]],
) -> tuple[Int64[np.ndarray, "256"], Int64[np.ndarray, "256"]]:
    """How many pixels have each label, and how many masks show it."""
    pixels, masks = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for label in labels:
        counts = np.bincount(label.ravel(), minlength=256)
        pixels += counts
        masks += counts > 0
    return pixels, masks


def frequency_table(
    dataset: datasets.Dataset, pixels: Int64[np.ndarray, "256"], masks: Int64[np.ndarray, "256"]
) -> str:
    """A line for each class, the commonest first, then the ignored pixels."""
    labelled = max(int(pixels[: dataset.num_classes].sum()), 1)
    widest = max(len(name) for name in dataset.class_names)
    lines = [f"{'label':>5}  {'class':<{widest}}  {'% of labelled pixels':>20}  {'masks':>6}"]
    for label in np.argsort(-pixels[: dataset.num_classes], kind="stable"):
        name, share = dataset.class_names[label], 100 * pixels[label] / labelled
        lines.append(f"{label:>5}  {name:<{widest}}  {share:>20.3f}  {masks[label]:>6}")
    ignored = 100 * pixels[datasets.IGNORED] / max(int(pixels.sum()), 1)
    lines.append(f"{ignored:.3f}% of all pixels are ignored.")
    return "\n".join(lines)


def _main() -> None:
    config = command_line.config()
    source = loader.open_source(config, "train")
    if config.data.on_bad_example == "skip":
        source = sources.SkippingSource(source)
    step = max(len(source) // MASKS.value, 1)
    chosen = list(itertools.islice(range(0, len(source), step), MASKS.value))
    frequencies = class_frequencies(source[index].label for index in chosen)
    print(f"Classes in {len(chosen)} of {len(source)} training masks:")
    print(frequency_table(loader.dataset(config), *frequencies))
    pictures.write_png(OUTPUT.value, contact_sheet(config, COUNT.value))
    print(f"Wrote {COUNT.value} augmented examples to {OUTPUT.value}.")


if __name__ == "__main__":
    command_line.run(_main)
