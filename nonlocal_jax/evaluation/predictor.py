"""For notebooks: a checkpoint as something that takes images.

    from nonlocal_jax import api

    model = api.load("configs/ade20k_r50_80k.py", "checkpoints/ade20k_r50_80k")
    mask = model.predict(image)                   # uint8 [h, w], class indices
    names = [model.class_names[i] for i in np.unique(mask)]
    weights = model.attention(image, (120, 80))   # what the pixel in row 120, column 80 attends to

Images are RGB, uint8 [h, w, 3]; `inputs.decode.decode_image` reads files. Every new image size
compiles a program, which the next image of that size uses again.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from nonlocal_jax.checkpoints import training
from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.inference import (
    LowResolution,
    Protocol,
    Scaled,
    Windows,
    class_indices,
    low_resolution_scores,
    probabilities,
)
from nonlocal_jax.inputs import loader
from nonlocal_jax.inputs.datasets.datasets import Dataset
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import Network, build_network
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.runtime.compilation import compiler_options

Image = UInt8[np.ndarray, "h w 3"]
Size = tuple[int, int]
Variables = dict[str, jax.Array]


def load(
    config: ConfigDict | str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    tta: bool = False,
    **overrides: object,
) -> "Predictor":
    """A checkpoint, ready to predict with.

    Args:
      config: of the row it was trained with: a file of configs/, or what `cli.load_config` gave.
      checkpoint: what `python -m nonlocal_jax.convert` or a training run wrote.
      tta: average over the config's scales and mirrored images.
      **overrides: of the config's values, where a file is named: `**{"eval.scale": (1024, 512)}`.

    Raises:
      UserError: the config or the checkpoint is not there, or they do not belong together.
    """
    if not isinstance(config, ConfigDict):
        config = command_line.load_config(config, **overrides)
    return Predictor(*restore(config, checkpoint), config, tta=tta)


class Predictor:
    """A network with its weights and its protocol; see `load`.

    Attributes:
      class_names: one per class index.
      palette: RGB of each class, uint8 [classes, 3].
    """

    def __init__(
        self,
        network: Network,
        variables: Mapping[str, np.ndarray],
        config: ConfigDict,
        *,
        tta: bool = False,
    ):
        dataset = dataset_of(config)
        self.class_names, self.palette = dataset.class_names, dataset.palette
        self._network, self._variables = network, jax.device_put(variables)
        self._protocol = protocol(config, tta)
        self._segment, self._distribute = (
            jax.jit(
                partial(self._at_size, reduce),
                static_argnames="canvas",
                compiler_options=compiler_options(jax.default_backend()),
            )
            for reduce in (class_indices, probabilities)
        )
        self._logits, self._attention = jax.jit(self._decode), jax.jit(self._attend)

    def predict(self, image: Image) -> UInt8[np.ndarray, "h w"]:
        """The class index of every pixel, by the protocol of the config's benchmark."""
        image = check_image(image)
        inputs = self._inputs(image)
        return np.asarray(self._segment(self._variables, *inputs, canvas=image.shape[:2])[0])

    def probabilities(self, image: Image) -> Float[np.ndarray, "h w classes"]:
        """The probability of every class in every pixel; float32 at full resolution is large."""
        image = check_image(image)
        inputs = self._inputs(image)
        volume = self._distribute(self._variables, *inputs, canvas=image.shape[:2])
        return np.moveaxis(np.asarray(volume[0]), 0, -1)

    def logits(self, image: Image) -> Float[np.ndarray, "h' w' classes"]:
        """What the decode head says of the image at the config's scale, at its output stride.

        This is one pass over the whole image, also where the protocol slides or averages.
        """
        return np.asarray(self._logits(self._variables, self._at_scale(check_image(image)))[0])

    def attention(self, image: Image, point: tuple[int, int]) -> Float[np.ndarray, "h' w'"]:
        """What the non-local block attends to at a pixel: weights over its feature map.

        In the Gaussian modes they sum to one. The image is seen whole, at the config's scale.

        Args:
          image: RGB.
          point: row and column of the pixel in it.

        Raises:
          UserError: the network has no non-local block, or the pixel is outside the image.
        """
        image = check_image(image)
        height, width = image.shape[:2]
        if not (0 <= point[0] < height and 0 <= point[1] < width):
            raise UserError(
                f"Row {point[0]}, column {point[1]} is not in an image of {height} rows and "
                f"{width} columns."
            )
        relative = ((np.array([point]) + 0.5) / (height, width)).astype(np.float32)
        return np.asarray(self._attention(self._variables, self._at_scale(image), relative)[0])

    def _inputs(self, image: Image) -> tuple[tuple[Scaled, ...], Int[np.ndarray, "1 2"]]:
        size = image.shape[:2]
        scales = tuple(
            Scaled(jnp.asarray(resize_image(image, scaled)[None]), jnp.array([scaled], jnp.int32))
            for scaled in self._protocol.input_sizes(size)
        )
        return scales, np.array([size], np.int32)

    def _at_scale(self, image: Image) -> UInt8[np.ndarray, "1 h w 3"]:
        size = self._protocol.once().input_sizes(image.shape[:2])[0]
        return resize_image(image, size)[None]

    def _at_size(
        self,
        reduce: Callable[[list[LowResolution]], Array],
        variables: Variables,
        scales: tuple[Scaled, ...],
        sizes: Int[Array, "1 2"],
        *,
        canvas: Size,
    ) -> Array:
        model = self._network.bind_for_inference(variables)
        return reduce(
            low_resolution_scores(model, scales, sizes, canvas, self._protocol, padded=False)
        )

    def _decode(self, variables: Variables, images: UInt8[Array, "n h w 3"]) -> Array:
        return self._network.bind_for_inference(variables)(normalize(images))

    def _attend(
        self,
        variables: Variables,
        images: UInt8[Array, "n h w 3"],
        relative: Float[Array, "n 2"],
    ) -> Array:
        model = self._network.bind_for_inference(variables)
        return model.attention_map(normalize(images), relative).weights


def check_image(image: Image) -> Image:
    """The image as an array.

    Raises:
      UserError: it is none, or of another dtype or shape than this module takes.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(
            f"An image must be RGB, uint8 [h, w, 3]; this is {image.dtype} {list(image.shape)}. "
            "nonlocal_jax.inputs.decode.decode_image reads files of any kind as such."
        )
    return image


def restore(
    config: ConfigDict, checkpoint: str | os.PathLike[str]
) -> tuple[Network, dict[str, np.ndarray]]:
    """The network of a config for inference, and a checkpoint's variables for it.

    The auxiliary head, which only training sees, is left out of both, and batch norms are folded.

    Raises:
      UserError: there is no checkpoint, or it is not one of this config.
    """
    model = config.model.copy_and_resolve_references()
    model.auxiliary_head.loss_weight = 0.0
    network = build_network(model)
    loaded, metadata = training.load_model(checkpoint)
    variables = {k: v for k, v in loaded.items() if not k.startswith("auxiliary_head/")}
    problem = _difference(variables, network.shapes) or _other_meaning(metadata, config.model)
    if problem:
        origin = f" (it was made for {metadata['network']})" if "network" in metadata else ""
        raise UserError(f"{checkpoint} is of another network than the config{origin}: {problem}.")
    shapes = network.shapes
    return fold(network, {k: np.asarray(v, shapes[k].dtype) for k, v in variables.items()})


def dataset_of(config: ConfigDict) -> Dataset:
    """Names and colours of the classes of a config.

    Raises:
      UserError: the model has another number of classes.
    """
    dataset = loader.dataset(config)
    if dataset.num_classes != config.model.num_classes:
        raise UserError(
            f"config.model.num_classes is {config.model.num_classes}, and {config.data.name} has "
            f"{dataset.num_classes} classes."
        )
    return dataset


def protocol(config: ConfigDict, tta: bool = False) -> Protocol:
    """The evaluation protocol of a config, with or without its test-time augmentation."""
    sliding = {"whole": False, "slide": True}.get(config.eval.mode)
    if sliding is None:
        raise UserError(f"config.eval.mode is {config.eval.mode!r}; it must be whole or slide.")
    return Protocol(
        scale=tuple(config.eval.scale),
        align_corners=config.model.align_corners,
        ratios=tuple(config.eval.tta_ratios) if tta else (1.0,),
        flip=tta and config.eval.tta_flip,
        windows=Windows(tuple(config.eval.window), tuple(config.eval.stride)) if sliding else None,
    )


def _difference(
    variables: Mapping[str, np.ndarray], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> str:
    """What keeps `variables` from being those of a network, in a few words; empty for nothing."""
    classifier = "decode_head/classifier/kernel"
    if classifier in variables:
        classes = variables[classifier].shape[-1], expected[classifier].shape[-1]
        if classes[0] != classes[1]:
            return f"it has {classes[0]} classes, the config {classes[1]}"
    missing, extra = sorted(expected.keys() - variables), sorted(variables.keys() - expected)
    if missing or extra:
        example = f"no {missing[0]}" if missing else f"{extra[0]}, which the config has not"
        return f"of {len(missing)} missing and {len(extra)} further arrays, it has {example}"
    for name, variable in variables.items():
        if variable.shape != expected[name].shape:
            return f"{name} is {variable.shape} there, and {expected[name].shape} in the config"
    return ""


def _other_meaning(metadata: Mapping[str, Any], model: ConfigDict) -> str:
    """What makes the same arrays another network, in a few words; empty for nothing."""
    theirs = ConfigDict(metadata.get("model", {}))
    for key in ("align_corners", "decode_head.mode", "decode_head.use_scale"):
        part, _, name = key.rpartition(".")
        here, there = (tree.get(part, tree) for tree in (model, theirs))
        if name in there and here[name] != there[name]:
            return f"config.model.{key} was {there[name]} for it, and is {here[name]} here"
    return ""
