"""Segments image files of any sizes: masks, overlays, probabilities, attention maps."""

import collections
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nonlocal_jax.config.schema import MOST_PIXELS
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import batching, programs
from nonlocal_jax.evaluation.batching import Image, Size
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.inputs import decode
from nonlocal_jax.inputs.listing import files_below
from nonlocal_jax.reporting import attention, outputs, pictures
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.console import say

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
LONGEST_NAME = 200  # bytes; file systems allow 255, and the suffix is added


class ImageFiles:
    """Image files by number. Files that can't be read are listed apart, with the reason.

    Args:
      paths: the files.
      most_pixels: an image with more is not read.

    Attributes:
      paths: the files whose size is known.
      sizes: height and width of each.
      bad: the reason by path.
    """

    def __init__(self, paths: list[pathlib.Path], most_pixels: int = MOST_PIXELS):
        self._most_pixels = most_pixels
        self._read: dict[int, Image] = {}
        self.paths: list[pathlib.Path] = []
        self.sizes: list[Size] = []
        self.bad: dict[pathlib.Path, str] = {}
        for path in paths:
            try:
                size = decode.image_size(_read(path), str(path), most_pixels)
            except UserError as error:
                self.report(path, first_sentence(error))
                continue
            self.paths.append(path)
            self.sizes.append(size)

    def read(self, index: int) -> tuple[Image, None] | None:
        """An image by number, without labels; None if it can't be decoded."""
        try:
            image = self._decode(index)
        except UserError as error:
            self.report(self.paths[index], first_sentence(error))
            return None
        self._read[index] = image
        return image, None

    def take(self, index: int) -> Image | None:
        """The image that `read` returned, once: the file may have changed. None for a bad one."""
        image = self._read.pop(index, None)
        return None if self.paths[index] in self.bad else image

    def _decode(self, index: int) -> Image:
        path, (height, width) = self.paths[index], self.sizes[index]
        image = decode.decode_image(_read(path), str(path), self._most_pixels)
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{path} was {width}x{height} at first and is {image.shape[1]}x{image.shape[0]} "
                "now: it was written meanwhile, or its header is damaged."
            )
        return image

    def report(self, path: pathlib.Path, reason: str) -> None:
        """Adds a file to `bad`, and prints why."""
        self.bad[path] = reason
        say(f"Left out: {reason}")


def find_files(pattern: str, what: str, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """The files of a pattern: a file, all files below a folder, or the files of a glob.

    Args:
      pattern: the pattern.
      what: the files are called, for errors: "image".
      suffixes: of the files below a folder.

    A folder is listed as a data set is (inputs/listing.py). A file that several names of a glob
    lead to is used once. How much was left out is printed.

    Raises:
      UserError: there is none.
    """
    path = pathlib.Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        listed = files_below(path, suffixes)
        if not listed.files:
            raise UserError(f"{path} holds no {what} ({', '.join(suffixes)}).")
        _say_left_out(listed.left_out, path)
        return [path / name for name in listed.files]
    if path.exists():
        raise UserError(f"{path} is neither a file nor a folder: there is no {what} to read.")
    matches = _expand(path)
    files = {p.resolve(): p for p in reversed(matches) if p.is_file()}
    if not files:
        raise UserError(
            f"There is no {what} {pattern}; give a file, a folder, or a quoted pattern."
        )
    _say_left_out(len(matches) - len(files), pattern)
    return sorted(files.values())


def _expand(pattern: pathlib.Path) -> list[pathlib.Path]:
    """What a pattern stands for, sorted; ** does not follow links, which may lead in a circle.

    Raises:
      UserError: it is no pattern.
    """
    first = next((i for i, part in enumerate(pattern.parts) if set(part) & set("*?[")), None)
    if first is None:
        return []
    folder = pathlib.Path(*pattern.parts[:first])
    try:
        return sorted(folder.glob(str(pathlib.PurePath(*pattern.parts[first:]))))
    except (ValueError, OSError) as error:
        raise UserError(f"{pattern} is no pattern of files: {error}.") from error


def _say_left_out(count: int, where: object) -> None:
    if count:
        say(f"Not used of {where}: {count} that are hidden, of another kind, or found twice.")


def find_images(pattern: str) -> list[pathlib.Path]:
    """The image files of a pattern; see `find_files`."""
    return find_files(pattern, "image", SUFFIXES)


def segment_files(
    files: ImageFiles,
    output: pathlib.Path,
    restored: Restored,
    *,
    mesh: Mesh,
    tta: bool = False,
    probabilities: bool = False,
) -> None:
    """Writes the mask and the overlay of each image to `output`.

    Args:
      files: the images. Those that can't be decoded are added to `files.bad`.
      output: the folder.
      restored: the checkpoint.
      mesh: the devices.
      tta: average over the config's scales and mirrored images.
      probabilities: write class probabilities, too.

    Raises:
      UserError: a file can't be written, or scores are not finite.
    """
    config = restored.config
    protocol = Protocol.of(config.eval, config.model.align_corners, tta)
    function = programs.segmenting(restored.network, protocol, probabilities=probabilities)
    variables = sharding.place_variables(restored.variables, mesh)
    names = output_names(files.paths)
    for members, result in _run(function, variables, files, protocol, mesh):
        masks, finite = np.asarray(result.masks), np.asarray(result.finite)
        volumes = None if result.probabilities is None else np.asarray(result.probabilities)
        for row, index in enumerate(members):
            image, name, (height, width) = files.take(index), names[index], files.sizes[index]
            if image is None:
                continue
            if not finite[row]:
                raise UserError(
                    f"The network's scores for {files.paths[index]} are not finite: the checkpoint "
                    "holds NaN or infinite values."
                )
            mask = masks[row, :height, :width]
            outputs.write_mask(output / "masks" / f"{name}.png", mask, restored.palette)
            outputs.write_overlay(
                output / "overlays" / f"{name}.png",
                image,
                mask,
                restored.class_names,
                restored.palette,
            )
            if volumes is not None:
                volume = volumes[row, :, :height, :width]
                outputs.write_probabilities(output / "probabilities" / f"{name}.npz", volume)


def write_attention(
    files: ImageFiles,
    folder: pathlib.Path,
    restored: Restored,
    point: tuple[int, int],
    *,
    mesh: Mesh,
) -> None:
    """Writes a picture for each image: what its pixel at `point` (row, column) attends to.

    The image is seen whole, at the config's scale. One without such a pixel is added to
    `files.bad`; the others are as in `segment_files`.

    Raises:
      UserError: the head has no attention, or a file can't be written.
    """
    config = restored.config
    protocol = Protocol.of(config.eval, config.model.align_corners).once()
    variables = sharding.place_variables(restored.variables, mesh)
    constants = variables, np.array(point, np.int32)
    names = output_names(files.paths)
    results = _run(programs.attending(restored.network), constants, files, protocol, mesh)
    for members, maps in results:
        weights, sizes = np.asarray(maps.weights), np.asarray(maps.sizes)
        for row, index in enumerate(members):
            image, path, (height, width) = files.take(index), files.paths[index], files.sizes[index]
            if image is None:
                continue
            if not (point[0] < height and point[1] < width):
                files.report(
                    path,
                    f"{path} has {height} rows and {width} columns, and no row {point[0]}, column "
                    f"{point[1]}: what that attends to is not drawn.",
                )
                continue
            rows, columns = sizes[row]
            seen = weights[row, :rows, :columns]
            picture = attention.picture(image, seen, point)
            pictures.write_png(folder / f"{names[index]}.png", picture)


def output_names(paths: list[pathlib.Path]) -> list[str]:
    """Unique names for the results of the images.

    That is the image's stem; where stems are equal, as much of its path as tells it apart. Upper
    and lower case are the same here, as on some file systems.
    """
    names = [path.stem for path in paths]
    for more in (lambda p: p.name, lambda p: "__".join(p.absolute().parts[1:]), _short_name):
        counts = collections.Counter(name.casefold() for name in names)
        names = [
            name if counts[name.casefold()] == 1 and _fits(name) else more(path)
            for name, path in zip(names, paths, strict=True)
        ]
    return names


def _short_name(path: pathlib.Path) -> str:
    """The start of a file's name, and a digest of its path."""
    digest = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()
    return f"{path.stem[:40]}-{digest[:16]}"


def _fits(name: str) -> bool:
    return len(name.encode(errors="surrogateescape")) <= LONGEST_NAME


def _run(
    function: jax.stages.Wrapped,
    constants: Any,
    files: ImageFiles,
    protocol: Protocol,
    mesh: Mesh,
) -> Iterator[batching.Result]:
    """Applies `function` to the files, one image on each device."""
    return batching.run(
        function,
        constants,
        files.read,
        files.sizes,
        protocol,
        batch_size=mesh.shape["data"] * mesh.shape["fsdp"],
        mesh=mesh,
        log=say,
    )


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def first_sentence(error: UserError) -> str:
    """The first sentence of an error, without remedies that are for data sets."""
    return str(error).partition(". ")[0].removesuffix(".") + "."
