"""Predictions as files: masks, PNGs for the servers of benchmarks, pictures with a legend."""

import io
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from matplotlib.figure import Figure
from PIL import Image

from nonlocal_jax.errors import UserError
from nonlocal_jax.reporting import pictures
from nonlocal_jax.runtime.files import write_whole

Mask = UInt8[np.ndarray, "h w"]
Palette = UInt8[np.ndarray, "classes 3"]
Picture = UInt8[np.ndarray, "h w 3"]


def check_folder(folder: pathlib.Path) -> None:
    """Creates the folder of results before anything is computed.

    Raises:
      UserError: nothing can be written there.
    """
    probe = folder / ".writable"
    try:
        write_whole(probe, "")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error


def write_mask(path: pathlib.Path, mask: Mask, palette: Palette) -> None:
    """A PNG of class indices, with the colours of the classes as its palette.

    Raises:
      UserError: it can't be written.
    """
    pictures.save_png(path, indexed(mask, palette))


def indexed(mask: Mask, palette: Palette) -> Image.Image:
    """The class indices as a picture with the colours of the classes as its palette."""
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette(palette.tobytes())
    return picture


def server_values(
    own_values: Sequence[int], class_names: Sequence[str]
) -> UInt8[np.ndarray, "classes"]:
    """The values of the classes in a data set's masks, which the server of its benchmark expects.

    For Cityscapes these are ids, for ADE20K the class plus one, for your own data the inverse of
    the label map, and for others the class itself.

    Args:
      own_values: of the data set; empty for the class itself.
      class_names: one per class.

    Raises:
      UserError: no value of the masks stands for some class.
    """
    values = list(own_values) or list(range(len(class_names)))
    if -1 in values:
        label = values.index(-1)
        raise UserError(
            f"No value of the data set's own masks stands for class {label} "
            f"({class_names[label]}), so that it can't be written in their numbers."
        )
    return np.array(values, np.uint8)


def write_server_mask(path: pathlib.Path, mask: Mask, values: UInt8[np.ndarray, "classes"]) -> None:
    """A PNG in the numbers of the data set's own masks, which its benchmark server expects.

    Args:
      path: of the file.
      mask: class of each pixel.
      values: what `server_values` gives.

    Raises:
      UserError: it can't be written.
    """
    pictures.save_png(path, Image.fromarray(values[mask]))


def write_overlay(
    path: pathlib.Path, image: Picture, mask: Mask, class_names: Sequence[str], palette: Palette
) -> None:
    """The image tinted by class, above the legend of the classes that occur.

    Raises:
      UserError: it can't be written.
    """
    pictures.write_png(path, overlay(image, mask, class_names, palette))


def overlay(image: Picture, mask: Mask, class_names: Sequence[str], palette: Palette) -> Picture:
    """The image tinted by class, above the legend of the classes that occur."""
    present = np.unique(mask)
    names = [class_names[label] for label in present]
    legend = pictures.legend(names, palette[present], width=image.shape[1])
    return pictures.stack([pictures.overlay(image, mask, palette), legend])


def write_probabilities(
    path: pathlib.Path, probabilities: Float[np.ndarray, "classes h w"]
) -> None:
    """An .npz with `probabilities`, float16 [h, w, classes].

    Raises:
      UserError: it can't be written.
    """
    encoded = io.BytesIO()
    np.savez_compressed(encoded, probabilities=np.moveaxis(probabilities, 0, -1).astype(np.float16))
    pictures.write(path, encoded.getvalue())


def write_confusion(
    path: pathlib.Path,
    confusion: Integer[np.ndarray, "classes classes"],
    class_names: Sequence[str],
    title: str = "",
) -> None:
    """A picture of the confusion matrix: for each label (row), the share of each prediction.

    Raises:
      UserError: it can't be written.
    """
    count = len(confusion)
    side = min(max(4.0, 0.28 * count + 2), 24.0)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="viridis", vmin=0, vmax=1)
    size = min(8.0, 60 * side / count)
    # Class names are no formulas: "$100_$ bill".
    axes.set_xticks(range(count), class_names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), class_names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, shrink=0.6, label="share of the label's pixels")
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    pictures.write(path, encoded.getvalue())
