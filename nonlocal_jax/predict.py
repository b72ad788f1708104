"""Segments images: index masks, and the images tinted by class above a legend.

    python -m nonlocal_jax.predict --config=configs/ROW.py --checkpoint=DIR \
        --input=IMAGE|FOLDER|'GLOB' --output=DIR [--tta] [--probabilities] [--attend=ROW,COLUMN]

writes DIR/masks, DIR/overlays and, if asked for, DIR/probabilities and DIR/attention. An image
that can't be read is reported and left out, and the exit code is then 1.
"""

import collections
import glob
import pathlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, UInt8
from ml_collections import ConfigDict

from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import batching, inference, predictor
from nonlocal_jax.evaluation.batching import Batch, Image, Size
from nonlocal_jax.evaluation.inference import Protocol
from nonlocal_jax.inputs import decode
from nonlocal_jax.inputs.datasets import datasets
from nonlocal_jax.models.network import Network
from nonlocal_jax.models.segmentor import AttentionMap
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.reporting import outputs, pictures
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training import run_log

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class Files:
    """Image files by number; those that can't be read are kept apart, with the reason.

    Attributes:
      paths: the files whose size is known.
      sizes: height and width of each.
      bad: the reason by path.
    """

    def __init__(self, paths: list[pathlib.Path]):
        self.paths: list[pathlib.Path] = []
        self.sizes: list[Size] = []
        self.bad: dict[pathlib.Path, str] = {}
        for path in paths:
            try:
                size = decode.image_size(_read(path), str(path))
            except UserError as error:
                self.report(path, _first_sentence(error))
                continue
            self.paths.append(path)
            self.sizes.append(size)

    def read(self, index: int) -> tuple[Image, None] | None:
        """An image by number, or None if it can't be decoded; there are no labels."""
        try:
            return self.image(self.paths[index]), None
        except UserError as error:
            self.report(self.paths[index], _first_sentence(error))
            return None

    def image(self, path: pathlib.Path) -> Image:
        """An image.

        Raises:
          UserError: it can't be decoded.
        """
        return decode.decode_image(_read(path), str(path))

    def report(self, path: pathlib.Path, reason: str) -> None:
        """Counts an image among the bad ones, and says why."""
        self.bad[path] = reason
        run_log.say(f"Left out: {reason}")


class Prediction(NamedTuple):
    """What the device gives for a batch.

    Attributes:
      masks: class indices.
      finite: whether an image's scores were.
      probabilities: where they were asked for.
    """

    masks: UInt8[Array, "n H W"]
    finite: Bool[Array, "n"]
    probabilities: Float[Array, "n classes H W"] | None


def main() -> None:
    """Segments `--input` with `--checkpoint`."""
    config, options = command_line.config(), flags.FLAGS
    command_line.require("checkpoint", "input", "output")
    point = parse_point(options.attend)
    found, output = find_images(options.input), pathlib.Path(options.output)
    outputs.check_folder(output)
    network, variables = predictor.restore(config, options.checkpoint)
    if point is not None and config.model.decode_head.name != "nonlocal":
        raise UserError("--attend needs a network with config.model.decode_head.name=nonlocal.")
    files = Files(found)
    segment_files(
        files, output, network, variables, config, tta=options.tta, volumes=options.probabilities
    )
    if point is not None:
        write_attention(files, output / "attention", network, variables, config, point)
    done = len(found) - len(files.bad)
    run_log.say(f"{done} of {len(found)} images are done; the results are in {output}.")
    command_line.exit_for_bad_images(list(files.bad.values()), len(found))


def segment_files(
    files: Files,
    output: pathlib.Path,
    network: Network,
    variables: dict[str, np.ndarray],
    config: ConfigDict,
    *,
    tta: bool = False,
    volumes: bool = False,
) -> None:
    """Writes the mask and the overlay of every image below `output`.

    Args:
      files: what to segment; those that prove unreadable are added to `files.bad`.
      output: the folder.
      network: for inference, as `api.restore` gives it.
      variables: its arrays.
      config: gives classes, colours and protocol.
      tta: average over the config's scales and mirrored images.
      volumes: write class probabilities, too.

    Raises:
      UserError: a file can't be written, or scores are not finite.
    """
    dataset = predictor.dataset_of(config)
    protocol = predictor.protocol(config, tta)
    names = output_names(files.paths)
    function = _predicting(network, protocol, volumes)
    for members, prediction in _run(function, files, variables, protocol, config, volumes):
        for row, index in enumerate(members):
            if files.paths[index] in files.bad:
                continue
            if not prediction.finite[row]:
                raise UserError(
                    f"The network's scores for {files.paths[index]} are not finite: the checkpoint "
                    "holds NaN or infinite values."
                )
            height, width = files.sizes[index]
            mask = np.asarray(prediction.masks[row])[:height, :width]
            _write(output, names[index], files.image(files.paths[index]), mask, dataset)
            if prediction.probabilities is not None:
                volume = np.asarray(prediction.probabilities[row])[:, :height, :width]
                outputs.write_probabilities(
                    output / "probabilities" / f"{names[index]}.npz", volume
                )


def write_attention(
    files: Files,
    folder: pathlib.Path,
    network: Network,
    variables: dict[str, np.ndarray],
    config: ConfigDict,
    point: tuple[int, int],
) -> None:
    """For every image, a picture of what its pixel at `point` (row, column) attends to.

    The image is seen whole, at the config's scale. One without such a pixel is added to
    `files.bad`; the others are as in `segment_files`.

    Raises:
      UserError: the network has no non-local block, or a file can't be written.
    """
    names = output_names(files.paths)
    protocol = predictor.protocol(config).once()
    function = _attending(network, point)
    for members, attention in _run(function, files, variables, protocol, config, point):
        for row, index in enumerate(members):
            path, (height, width) = files.paths[index], files.sizes[index]
            if path in files.bad:
                continue
            if not (point[0] < height and point[1] < width):
                files.report(path, f"{path} has no row {point[0]}, column {point[1]}.")
                continue
            rows, columns = np.asarray(attention.sizes[row])
            weights = np.asarray(attention.weights[row])[:rows, :columns]
            picture = pictures.attention_overlay(files.image(path), weights, point)
            pictures.write_png(folder / f"{names[index]}.png", picture)


def find_images(pattern: str) -> list[pathlib.Path]:
    """The image files that `--input` names: one file, those below a folder, or those of a glob.

    Raises:
      UserError: there is none.
    """
    path = pathlib.Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"{path} holds no image ({', '.join(SUFFIXES)}).")
        return found
    found = sorted(pathlib.Path(p) for p in glob.glob(pattern, recursive=True))
    found = [p for p in found if p.is_file()]
    if not found:
        raise UserError(f"There is no image {pattern}; give a file, a folder, or a quoted pattern.")
    return found


def output_names(paths: list[pathlib.Path]) -> list[str]:
    """A name for each image's results: its stem; where stems are equal, as much as tells apart."""
    names = [path.stem for path in paths]
    for more in (lambda p: p.name, lambda p: "__".join(p.absolute().parts[1:])):
        counts = collections.Counter(names)
        names = [n if counts[n] == 1 else more(p) for n, p in zip(names, paths, strict=True)]
    return names


def parse_point(text: str | None) -> tuple[int, int] | None:
    """Row and column from "ROW,COLUMN"; None for None.

    Raises:
      UserError: it is no such pair.
    """
    if text is None:
        return None
    try:
        row, column = (int(part) for part in text.split(","))
        if min(row, column) < 0:
            raise ValueError(text)
    except ValueError as error:
        raise UserError(f"--attend is {text!r}; it must be ROW,COLUMN, e.g. 120,80.") from error
    return row, column


def _run(
    function: jax.stages.Wrapped,
    files: Files,
    variables: dict[str, np.ndarray],
    protocol: Protocol,
    config: ConfigDict,
    option: object,
) -> Iterator[batching.Result]:
    """Puts the files through `function`, which `option` decides about, an image a device."""
    mesh = sharding.make_mesh(**config.mesh)
    return batching.run(
        function,
        sharding.place_variables(variables, mesh),
        files.read,
        files.sizes,
        protocol,
        batch_size=mesh.shape["data"] * mesh.shape["fsdp"],
        mesh=mesh,
        log=run_log.say,
        made_from=(config.to_json_best_effort(), protocol, option),
    )


def _attending(network: Network, point: tuple[int, int]) -> jax.stages.Wrapped:
    """The jitted function that gives a batch's attention maps."""

    @partial(jax.jit, static_argnames=("canvas", "padded"))
    def attend(
        variables: dict[str, jax.Array], batch: Batch, *, canvas: Size, padded: bool
    ) -> AttentionMap:
        (scaled,) = batch.scales
        relative = (jnp.array(point, jnp.float32) + 0.5) / batch.sizes.astype(jnp.float32)
        return network.bind_for_inference(sharding.gathered(variables)).attention_map(
            normalize(scaled.images, scaled.sizes), relative, scaled.sizes if padded else None
        )

    return attend


def _predicting(network: Network, protocol: Protocol, volumes: bool) -> jax.stages.Wrapped:
    """The jitted function that segments a batch."""

    @partial(jax.jit, static_argnames=("canvas", "padded"))
    def predict(
        variables: dict[str, jax.Array], batch: Batch, *, canvas: Size, padded: bool
    ) -> Prediction:
        model = network.bind_for_inference(sharding.gathered(variables))
        scores = inference.low_resolution_scores(
            model, batch.scales, batch.sizes, canvas, protocol, padded=padded
        )
        masks = inference.class_indices(scores)
        classes = scores[0].logits.shape[-1]
        finite = jnp.all(masks < classes, axis=(1, 2))
        return Prediction(masks, finite, inference.probabilities(scores) if volumes else None)

    return predict


def _write(
    output: pathlib.Path,
    name: str,
    image: Image,
    mask: UInt8[np.ndarray, "h w"],
    dataset: datasets.Dataset,
) -> None:
    outputs.write_mask(output / "masks" / f"{name}.png", mask, dataset.palette)
    outputs.write_overlay(output / "overlays" / f"{name}.png", image, mask, dataset)


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _first_sentence(error: UserError) -> str:
    """Without the remedies for data sets that follow it."""
    return str(error).partition(". ")[0].removesuffix(".") + "."


def define_flags() -> None:
    """The command's own flags."""
    command_line.define_inference_flags()
    flags.DEFINE_string("input", None, "An image, a folder, or a quoted pattern.")
    flags.DEFINE_bool("probabilities", False, "Write class probabilities, float16 .npz, too.")
    flags.DEFINE_string("attend", None, "ROW,COLUMN of a pixel: write what it attends to, too.")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
