"""The Python interface: loads a checkpoint, and applies it to images.

    import nonlocal_jax

    model = nonlocal_jax.load("runs/ade20k_r50_80k")
    mask = model.predict(image)                   # uint8 [h, w], class indices
    names = [model.class_names[i] for i in np.unique(mask)]
    weights = model.attention(image, (120, 80))   # what the pixel in row 120, column 80 attends to

Images are RGB, uint8 [h, w, 3]; `nonlocal_jax.read_image` reads files. Images of similar sizes
share a compiled program. The programs that were used last are kept.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.folder import read_metadata
from nonlocal_jax.checkpoints.hub.save import LICENSE, save
from nonlocal_jax.config import files, schema
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import batching, programs
from nonlocal_jax.evaluation.kept import KeptPrograms, Shapes
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.evaluation.restore import Restored, restore
from nonlocal_jax.evaluation.video.predictor import VideoPredictor
from nonlocal_jax.evaluation.video.restore import restore as restore_video
from nonlocal_jax.models.attention_factors import AttentionFactors
from nonlocal_jax.runtime import sharding

Image = UInt8[np.ndarray, "h w 3"]


def load(
    checkpoint: str | os.PathLike[str],
    config: schema.Run | str | os.PathLike[str] | None = None,
    *,
    tta: bool = False,
    step: locate.Step | None = None,
    **overrides: object,
) -> "Predictor | VideoPredictor":
    """Loads a checkpoint for prediction: a `Predictor` of images, or a `VideoPredictor`.

    Args:
      checkpoint: the folder of a run, of one of its checkpoints, of an import by
        `nonlocal-jax convert`, or of `save_pretrained`; or "org/name" or "org/name@revision" of the
        Hugging Face hub, which is downloaded if there is no such path here.
      config: a config to use instead of the checkpoint's own: a name, a file, or the result of
        `files.load`.
      tta: average over the config's scales and mirrored images; of videos, over mirrored views.
      step: the checkpoint of a run: a number, "best" by mIoU, or "latest". None: the best, or the
        latest if none was evaluated.
      **overrides: other values of the config: `**{"eval.scale": (1024, 512)}`.

    Raises:
      UserError: the checkpoint or the config does not exist, can't be downloaded, or they do not
        match.
    """
    found = locate.find(checkpoint, step)
    if config is None:
        config = read_metadata(found.folder).needed_config(found)
    elif not isinstance(config, schema.Run):
        config = files.load(config)
    config = files.override(config, **overrides)
    if isinstance(config, VideoConfig):
        return VideoPredictor(restore_video(found, config, departing=overrides.keys()), tta=tta)
    config = schema.for_segmentation(config)
    return Predictor(restore(found, config, departing=overrides.keys()), tta=tta)


class Predictor:
    """A network with its weights and its protocol; see `load`.

    Args:
      restored: a checkpoint.
      tta: average over the config's scales and mirrored images.

    Attributes:
      class_names: name of each class index.
      palette: RGB of each class, uint8 [classes, 3].
      config: the config in use.
      found: folder and step of the checkpoint.
      parameters: number of the network's parameters and statistics.
      has_attention: whether `attention` tells something.
    """

    def __init__(self, restored: Restored, *, tta: bool = False):
        self.class_names, self.palette = restored.class_names, restored.palette
        self.config, self.found = restored.config, restored.found
        network = restored.network
        self.has_attention = network.has_attention
        self.parameters = sum(int(np.size(value)) for value in restored.variables.values())
        mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
        self._variables = sharding.place_variables(restored.variables, mesh)
        protocol = Protocol.of(self.config.eval, self.config.model.align_corners, tta)
        self._segment, self._distribute = (
            _Program(
                functools.partial(
                    programs.segmenting, network, protocol, probabilities=probabilities
                ),
                protocol,
                mesh,
            )
            for probabilities in (False, True)
        )
        self._decode, self._attend, self._factor = (
            _Program(functools.partial(make, network), protocol.once(), mesh)
            for make in (programs.decoding, programs.attending, programs.factoring)
        )

    def predict(self, image: np.ndarray) -> UInt8[np.ndarray, "h w"]:
        """The class index of each pixel, by the protocol of the config's benchmark.

        Raises:
          UserError: the image is not RGB uint8, or the scores are not finite.
        """
        image = check_image(image)
        height, width = image.shape[:2]
        result = self._segment(self._variables, image)
        _check_finite(result)
        return np.asarray(result.masks)[0, :height, :width]

    def probabilities(self, image: np.ndarray) -> Float[np.ndarray, "h w classes"]:
        """The probability of each class in each pixel: a large array in float32.

        Raises:
          UserError: the image is not RGB uint8, or the scores are not finite.
        """
        image = check_image(image)
        height, width = image.shape[:2]
        result = self._distribute(self._variables, image)
        _check_finite(result)
        return np.moveaxis(np.asarray(result.probabilities)[0, :, :height, :width], 0, -1)

    def logits(self, image: np.ndarray) -> Float[np.ndarray, "rows columns classes"]:
        """The logits of the decode head for the image at the config's scale, at its output stride.

        This is one pass over the whole image, also if the protocol has windows or averages.

        Raises:
          UserError: the image is not RGB uint8.
        """
        result = self._decode(self._variables, check_image(image))
        rows, columns = np.asarray(result.sizes)[0]
        return np.asarray(result.logits)[0, :rows, :columns]

    def attention(
        self, image: np.ndarray, point: tuple[int, int]
    ) -> Float[np.ndarray, "rows columns"]:
        """What the decode head attends to at a pixel: weights over its feature map.

        After a softmax over all positions they sum to one. The whole image is processed, at the
        config's scale.

        Args:
          image: RGB, uint8 [h, w, 3].
          point: row and column of the pixel.

        Raises:
          UserError: the head has no attention, or the pixel is outside the image.
        """
        image = check_image(image)
        height, width = image.shape[:2]
        pair = np.asarray(point)
        if pair.shape != (2,) or pair.dtype.kind not in "iu":
            raise UserError(f"The point is {point!r}; it must be a row and a column.")
        if not (0 <= pair[0] < height and 0 <= pair[1] < width):
            raise UserError(
                f"Row {pair[0]}, column {pair[1]} is not in an image of {height} rows and "
                f"{width} columns."
            )
        result = self._attend((self._variables, np.array(point, np.int32)), image)
        rows, columns = np.asarray(result.sizes)[0]
        return np.asarray(result.weights)[0, :rows, :columns]

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, license: str = LICENSE
    ) -> pathlib.Path:
        """Saves the checkpoint as a hub folder, which `load` reads; returns its path.

        The folder has the checkpoint's own arrays, with the auxiliary head, the config in use, the
        classes, and a model card.

        Args:
          directory: a folder that does not exist yet.
          license: of the weights, by the hub's name.

        Raises:
          UserError: the folder exists or can't be written, or the checkpoint is gone, damaged, or
            of another network than the config.
        """
        return save(
            self.found,
            self.config,
            directory,
            class_names=self.class_names,
            palette=self.palette,
            license=license,
        )

    def attention_factors(self, image: np.ndarray) -> AttentionFactors:
        """The queries and keys that `attention` is computed from, without a batch axis.

        The position of a pixel is its row and column, each plus a half, times the size of the
        queries' map over that of the image, rounded down.

        Raises:
          UserError: the image is not RGB uint8, or the head's attention is not of this form.
        """
        result = self._factor(self._variables, check_image(image))
        (rows, columns), (key_rows, key_columns) = (
            np.asarray(sizes)[0] for sizes in (result.sizes, result.key_sizes)
        )
        query, key, unary = result.factors.query, result.factors.key, result.factors.unary
        return AttentionFactors(
            np.asarray(query)[0, :rows, :columns],
            np.asarray(key)[0, :key_rows, :key_columns],
            None if unary is None else np.asarray(unary)[0, :key_rows, :key_columns],
            result.factors.kind,
        )


class _Program:
    """A function of `programs` for single images."""

    def __init__(
        self, make: Callable[[], jax.stages.Wrapped], protocol: Protocol, mesh: jax.sharding.Mesh
    ):
        self._protocol, self._mesh = protocol, mesh
        self.kept = KeptPrograms(make, protocol, mesh)

    def __call__(self, constants: Any, image: Image) -> Any:
        height, width = image.shape[:2]
        shapes = Shapes.of((height, width), self._protocol)
        inputs = self._protocol.input_sizes((height, width))
        row = batching.make_row(shapes.bucket, image, inputs)
        batch = batching.place([row], self._mesh)
        return self.kept.find(shapes, constants, batch)(constants, batch)


def check_image(image: np.ndarray) -> Image:
    """The image as an array, if it is RGB, uint8 [h, w, 3].

    Raises:
      UserError: it has another dtype or shape.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(
            f"An image must be RGB, uint8 [h, w, 3]; this is {image.dtype} {list(image.shape)}. "
            "nonlocal_jax.read_image reads files of any kind as such."
        )
    return image


def _check_finite(result: programs.Segmentation) -> None:
    if not np.asarray(result.finite)[0]:
        raise UserError(
            "The network's scores are not finite: the checkpoint holds NaN or infinite values."
        )
