"""Predictions as files: index masks, what the benchmarks' servers take, pictures with a legend."""

import pathlib

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image

from nonlocal_jax.evaluation.metrics import Scores
from nonlocal_jax.inputs.datasets.datasets import Dataset
from nonlocal_jax.reporting import pictures

Mask = UInt8[np.ndarray, "h w"]
Picture = UInt8[np.ndarray, "h w 3"]


def check_folder(folder: pathlib.Path) -> None:
    """Makes the folder that results go to, before anything is computed for them.

    Raises:
      UserError: nothing can be written there.
    """
    probe = folder / ".writable"
    with pictures.writing(probe):
        probe.touch()
        probe.unlink()


def write_mask(path: pathlib.Path, mask: Mask, palette: UInt8[np.ndarray, "k 3"]) -> None:
    """A PNG of class indices; a viewer shows them in the classes' colours.

    Raises:
      UserError: it can't be written.
    """
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette(palette.tobytes())
    _save(path, picture)


def write_server_mask(path: pathlib.Path, mask: Mask, dataset: Dataset) -> None:
    """A PNG in the numbers of the data set's own masks, which its benchmark server expects.

    Those are ids for Cityscapes, the class plus one for ADE20K, and the class itself for others.

    Raises:
      UserError: it can't be written.
    """
    if dataset.label_table is not None:
        own = [np.argmax(dataset.label_table == label) for label in range(dataset.num_classes)]
        mask = np.array(own, np.uint8)[mask]
    _save(path, Image.fromarray(mask))


def write_overlay(path: pathlib.Path, image: Picture, mask: Mask, dataset: Dataset) -> None:
    """The image tinted by class, above the legend of the classes that occur.

    Raises:
      UserError: it can't be written.
    """
    present = np.unique(mask)
    names = [dataset.class_names[label] for label in present]
    legend = pictures.legend(names, dataset.palette[present], width=image.shape[1])
    tinted = pictures.overlay(image, mask, dataset.palette)
    pictures.write_png(path, pictures.stack([tinted, legend]))


def write_probabilities(
    path: pathlib.Path, probabilities: Float[np.ndarray, "classes h w"]
) -> None:
    """An .npz with `probabilities`, float16 [h, w, classes].

    Raises:
      UserError: it can't be written.
    """
    volume = np.moveaxis(probabilities, 0, -1).astype(np.float16)
    with pictures.writing(path):
        np.savez_compressed(path, probabilities=volume)


def write_confusion(path: pathlib.Path, scores: Scores) -> None:
    """A picture of the confusion matrix: for each label (row), the share of each prediction.

    Raises:
      UserError: it can't be written.
    """
    count = len(scores.confusion)
    side = min(max(4.0, 0.28 * count + 2), 24.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = scores.confusion / np.maximum(scores.confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="viridis", vmin=0, vmax=1)
    size = min(8.0, 60 * side / count)
    axes.set_xticks(range(count), scores.class_names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), scores.class_names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(scores.summary(), fontsize=9)
    figure.colorbar(image, shrink=0.6, label="share of the label's pixels")
    with pictures.writing(path):
        figure.savefig(path, dpi=120)


def _save(path: pathlib.Path, picture: Image.Image) -> None:
    with pictures.writing(path):
        picture.save(path, "PNG")
