"""How often each class occurs in the training masks."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64, UInt8

from nonlocal_jax.config.schema import IGNORED
from nonlocal_jax.inputs import sources
from nonlocal_jax.inputs.datasets.dataset import Dataset
from nonlocal_jax.inputs.loader import Inputs

Counts = Int64[np.ndarray, "256"]


def report(inputs: Inputs, masks: int) -> str:
    """A line for each class, counted in some masks that are spread over the training split.

    Args:
      inputs: of the run.
      masks: how many masks are read, at most.

    Raises:
      UserError: the data set is not there, or an example is bad.
    """
    source = inputs.open("train")
    if inputs.data.on_bad_example == "skip":
        source = sources.SkippingSource(source)
    step = max(len(source) // masks, 1)
    chosen = range(0, len(source), step)[:masks]
    pixels, shown = count(source[index].label for index in chosen)
    return (
        f"Classes in {len(chosen)} of {len(source)} training masks:\n"
        f"{table(inputs.dataset, pixels, shown)}"
    )


def count(labels: Iterable[UInt8[np.ndarray, "h w"]]) -> tuple[Counts, Counts]:
    """How many pixels have each label, and how many masks show it."""
    pixels, masks = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for label in labels:
        counts = np.bincount(label.ravel(), minlength=256)
        pixels += counts
        masks += counts > 0
    return pixels, masks


def table(dataset: Dataset, pixels: Counts, masks: Counts) -> str:
    """A line for each class, the commonest first, then the ignored pixels.

    Args:
      dataset: names the classes.
      pixels: how many there are of each label.
      masks: how many masks show each label.
    """
    labelled = max(int(pixels[: dataset.num_classes].sum()), 1)
    widest = max(len(name) for name in dataset.class_names)
    lines = [f"{'label':>5}  {'class':<{widest}}  {'% of labelled pixels':>20}  {'masks':>6}"]
    for label in np.argsort(-pixels[: dataset.num_classes], kind="stable"):
        name, share = dataset.class_names[label], 100 * pixels[label] / labelled
        lines.append(f"{label:>5}  {name:<{widest}}  {share:>20.3f}  {masks[label]:>6}")
    ignored = 100 * pixels[IGNORED] / max(int(pixels.sum()), 1)
    lines.append(f"{ignored:.3f}% of all pixels are ignored.")
    return "\n".join(lines)
