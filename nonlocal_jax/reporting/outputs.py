"""Predictions as files: masks, PNGs for the servers of benchmarks, pictures with a legend."""

import io
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from nonlocal_jax.errors import UserError
from nonlocal_jax.reporting import pictures

Mask = UInt8[np.ndarray, "h w"]
Palette = UInt8[np.ndarray, "classes 3"]
Picture = UInt8[np.ndarray, "h w 3"]
LONGEST = 40  # letters of a class name in a picture
WITH_NUMBERS = 30  # classes, at most, of a confusion matrix with numbers
NARROWEST = 5.0  # inches


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
    tinted = pictures.overlay(image, mask, palette)
    colours = pictures.drawn_colours([tinted], [mask], present)
    return pictures.stack([tinted, pictures.legend(names, colours, width=image.shape[1])])


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
    """Writes `confusion_png` to a file.

    Raises:
      UserError: it can't be written.
    """
    pictures.write(path, confusion_png(confusion, class_names, title))


def confusion_png(
    confusion: Integer[np.ndarray, "classes classes"], class_names: Sequence[str], title: str = ""
) -> bytes:
    """A picture of the confusion matrix: for each label (row), the share of each prediction.

    Of up to thirty classes, each cell has its share in percent. Names of more than 40 letters are
    cut there.
    """
    from matplotlib.figure import Figure  # here, so that commands start sooner

    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in class_names]
    count, longest = len(names), max(map(len, names))
    cell = max(0.16, min(0.34, 24 / count))  # inches
    size = min(8.0, 48 * cell)  # points
    room = 0.6 * size * longest / 72 + 0.5  # beside and below the matrix, for the names
    width = max(cell * count + room + 1.2, NARROWEST)
    lines = textwrap.wrap(title, int(13 * width)) or [""]
    height = max(cell * count, 2.0) + room + 0.2 * len(lines) + 0.4
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="viridis", vmin=0, vmax=1)
    # Class names are no formulas: "$100_$ bill".
    axes.set_xticks(range(count), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    if count <= WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(share):
            colour = "black" if value > 0.6 else "white"
            percent = f"{100 * value:.0f}"
            axes.text(column, row, percent, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    figure.suptitle("\n".join(lines), fontsize=9)
    figure.colorbar(image, shrink=0.6, label="share of the label's pixels")
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    return encoded.getvalue()
