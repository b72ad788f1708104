"""A checkpoint with its protocol as one function of arrays: from bytes of images to results.

It does what evaluation does (evaluation/predictor.py), in JAX from the first step to the last, for
images of any size: height, width and number may be symbols of `jax.export`. Every image is its own
array here, so there is no padding.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped, UInt8

from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.ops.byte_resize import resize_bytes
from nonlocal_jax.ops.dims import Dim, larger, smaller
from nonlocal_jax.ops.normalize import normalize

Images = UInt8[Array, "n h w 3"]
Function = Callable[[Mapping[str, jax.Array], Images], Shaped[Array, "..."]]


def exported_function(request: Request) -> Function:
    """What is exported: (variables, images) -> result.

    `variables` are those of `request.restored`, and images are RGB, uint8 [n, h, w, 3]. The result
    is what `request.result` says:

    - indices: the class of each pixel, uint8 [n, h, w]. It is the number of classes where the
      network's scores are not finite.
    - probabilities: float32 [n, h, w, classes].
    - logits: of the decode head for the image at the config's scale, in one pass, float32
      [n, rows, columns, classes].
    """
    network, config = request.restored.network, request.restored.config
    protocol = Protocol.of(config.eval, config.model.align_corners, request.tta)
    if request.result == "logits":
        protocol = protocol.once()

    def function(variables: Mapping[str, jax.Array], images: Images) -> Shaped[Array, "..."]:
        # All factors in float32: on an accelerator, and without Winograd's rounding on a CPU.
        with jax.default_matmul_precision("highest"):
            model = network.bind_for_inference(variables)
            scales = scaled(images, protocol)
            if request.result == "logits":
                return model(normalize(scales[0].images))
            sizes, canvas = _sizes(images), (images.shape[1], images.shape[2])
            scores = inference.low_resolution_scores(
                model, scales, sizes, canvas, protocol, padded=False
            )
            # Without windows, no kernel of this project's own is used.
            scores = [score._replace(windows=None) for score in scores]
            if request.result == "indices":
                return inference.class_indices(scores)
            return jnp.moveaxis(inference.probabilities(scores), 1, -1)

    return function


def scaled(images: Images, protocol: Protocol) -> tuple[Scaled, ...]:
    """The images at every scale of a protocol, as `inputs.transforms` resizes them."""
    found = []
    for ratio in protocol.ratios:
        scale = int(protocol.scale[0] * ratio), int(protocol.scale[1] * ratio)
        height, width = fit_size(images.shape[1], images.shape[2], scale)
        resized = resize_bytes(images, height, width)
        found.append(Scaled(resized, _sizes(resized)))
    return tuple(found)


def fit_size(height: Dim, width: Dim, scale: tuple[int, int]) -> tuple[Dim, Dim]:
    """`inputs.transforms.fit_size`, of dimensions that may be symbols."""
    long, short = larger(height, width), smaller(height, width)

    def fitted(size: Dim) -> Dim:
        # The factor is the smaller of two quotients, and a rounded product grows with its factor.
        by_long, by_short = (
            (2 * size * bound + side) // (2 * side)
            for bound, side in ((max(scale), long), (min(scale), short))
        )
        return larger(smaller(by_long, by_short), 1)

    return fitted(height), fitted(width)


def _sizes(images: Images) -> Int[Array, "n 2"]:
    """Height and width of each image."""
    size = jnp.stack([jnp.asarray(length, jnp.int32) for length in images.shape[1:3]])
    return jnp.broadcast_to(size, (images.shape[0], 2))
