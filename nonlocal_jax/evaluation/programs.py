"""Programs on batches of images: counts, masks, logits or attention.

Each function returns a jitted function, (variables, batch, canvas=, padded=) -> results. See
`batching.run`, which compiles it once for each bucket. Keep the function to use its compiled
programs again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from nonlocal_jax.config.schema import IGNORED, Size
from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.metrics.confusion import confusion_matrix
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.models.attention_factors import ImageFactors
from nonlocal_jax.models.heads.head import AttentionMap
from nonlocal_jax.models.network import Network
from nonlocal_jax.ops import layout
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.runtime import sharding

Variables = dict[str, jax.Array]


class Counts(NamedTuple):
    """The counts of a batch.

    Attributes:
      confusion: pixels by label (row) and prediction (column).
      labelled: labelled pixels of each image. Their sum is that of `confusion` if all scores are
        finite.
      right: those of them that are predicted as their label.
      masks: class indices, if they were requested.
    """

    confusion: Int[Array, "classes classes"]
    labelled: Int[Array, "n"]
    right: Int[Array, "n"]
    masks: UInt8[Array, "n H W"] | None


class Segmentation(NamedTuple):
    """The predictions for a batch.

    Attributes:
      masks: class indices.
      finite: whether all scores of an image are finite.
      probabilities: of the classes, if they were requested.
    """

    masks: UInt8[Array, "n H W"]
    finite: Bool[Array, "n"]
    probabilities: Float[Array, "n classes H W"] | None


class Decoded(NamedTuple):
    """The decode head's logits.

    Attributes:
      logits: of the padded images.
      sizes: height and width of each image in them.
    """

    logits: Float[Array, "n rows columns classes"]
    sizes: Int[Array, "n 2"]


def counting(
    network: Network, protocol: Protocol, num_classes: int, *, keep_masks: bool = False
) -> jax.stages.Wrapped:
    """A function that compares a batch with its labels, and returns `Counts`."""

    def count(
        variables: Variables, batch: EvaluationBatch, *, canvas: Size, padded: bool
    ) -> Counts:
        model = network.bind_for_inference(sharding.gathered(variables))
        scores = inference.low_resolution_scores(
            model, batch.scales, batch.sizes, canvas, protocol, padded=padded
        )
        masks = inference.class_indices(scores)
        labels = layout.whole_rows(batch.labels)
        confusion = confusion_matrix(masks, labels, num_classes)
        seen = labels != IGNORED
        labelled, right = (
            layout.everywhere(jnp.sum(pixels, axis=(1, 2), dtype=jnp.int32))
            for pixels in (seen, seen & (masks == labels))
        )
        return Counts(confusion, labelled, right, masks if keep_masks else None)

    return _jit(count)


def segmenting(
    network: Network, protocol: Protocol, *, probabilities: bool = False
) -> jax.stages.Wrapped:
    """A function that segments a batch, and returns a `Segmentation`."""

    def segment(
        variables: Variables, batch: EvaluationBatch, *, canvas: Size, padded: bool
    ) -> Segmentation:
        model = network.bind_for_inference(sharding.gathered(variables))
        scores = inference.low_resolution_scores(
            model, batch.scales, batch.sizes, canvas, protocol, padded=padded
        )
        masks = inference.class_indices(scores)
        finite = jnp.all(masks < scores[0].logits.shape[-1], axis=(1, 2))
        volumes = inference.probabilities(scores) if probabilities else None
        return Segmentation(masks, finite, volumes)

    return _jit(segment)


def decoding(network: Network) -> jax.stages.Wrapped:
    """A function that returns the logits of whole images at one scale, as `Decoded`."""

    def decode(
        variables: Variables, batch: EvaluationBatch, *, canvas: Size, padded: bool
    ) -> Decoded:
        del canvas
        (scaled,) = batch.scales
        model = network.bind_for_inference(sharding.gathered(variables))
        images = normalize(scaled.images, scaled.sizes)
        logits = model(images, scaled.sizes if padded else None)
        return Decoded(logits, -(-scaled.sizes // model.output_stride))

    return _jit(decode)


def attending(network: Network) -> jax.stages.Wrapped:
    """A function that returns an `AttentionMap` of whole images at one scale.

    Its first argument is (variables, point): row and column of a pixel of the original images.
    """

    def attend(
        constants: tuple[Variables, Int[Array, "2"]],
        batch: EvaluationBatch,
        *,
        canvas: Size,
        padded: bool,
    ) -> AttentionMap:
        del canvas
        variables, point = constants
        (scaled,) = batch.scales
        relative = (point.astype(jnp.float32) + 0.5) / batch.sizes.astype(jnp.float32)
        model = network.bind_for_inference(sharding.gathered(variables))
        images = normalize(scaled.images, scaled.sizes)
        return model.attention_map(images, relative, scaled.sizes if padded else None)

    return _jit(attend)


def factoring(network: Network) -> jax.stages.Wrapped:
    """A function that returns `ImageFactors` of whole images at one scale: see `attending`."""

    def factor(
        variables: Variables, batch: EvaluationBatch, *, canvas: Size, padded: bool
    ) -> ImageFactors:
        del canvas
        (scaled,) = batch.scales
        model = network.bind_for_inference(sharding.gathered(variables))
        images = normalize(scaled.images, scaled.sizes)
        return model.attention_factors(images, scaled.sizes if padded else None)

    return _jit(factor)


def _jit(function: Callable[..., Any]) -> jax.stages.Wrapped:
    return jax.jit(function, static_argnames=("canvas", "padded"))
