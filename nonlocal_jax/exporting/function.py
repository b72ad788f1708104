"""A checkpoint with its protocol as one function of arrays: from bytes of images to results.

It does what evaluation does (evaluation/predictor.py), in JAX from the first step to the last, for
images of any size: height, width and number may be symbols of `jax.export`. Every image is its own
array here, so there is no padding.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped, UInt8

from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.inputs.transforms import scales
from nonlocal_jax.ops.byte_resize import resize_bytes
from nonlocal_jax.ops.dims import Dim, larger, smaller
from nonlocal_jax.ops.normalize import normalize

Images = UInt8[Array, "n h w 3"]
Variables = Mapping[str, jax.Array]
Result = Shaped[Array, "n ..."]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What is exported, in two steps.

    Where sizes are symbols, trace the two steps separately, and give the second one new symbols
    for the resized sizes. As expressions of the image's size they take minutes to trace.

    Attributes:
      request: network, protocol, and what the result is.
    """

    request: Request

    @property
    def variables(self) -> dict[str, jax.Array]:
        """The network's arrays, on the device."""
        held = self.request.restored.variables
        return {name: jnp.asarray(value) for name, value in held.items()}

    @property
    def protocol(self) -> Protocol:
        """How images are evaluated. Logits are those of one pass over the whole image."""
        config = self.request.restored.config
        protocol = Protocol.of(config.eval, config.model.align_corners, self.request.tta)
        return protocol.once() if self.request.result == "logits" else protocol

    def __call__(self, variables: Variables, images: Images) -> Result:
        """What `request.result` says of RGB images, uint8.

        - indices: the class of each pixel, uint8 [n, h, w]. It is the number of classes where the
          network's scores are not finite.
        - probabilities: float32 [n, h, w, classes].
        - logits: of the decode head for the image at the config's scale, float32
          [n, rows, columns, classes].

        `variables` are those of `request.restored`.
        """
        return self.infer(variables, images, self.scale(images))

    def scale(self, images: Images) -> tuple[Images, ...]:
        """The first step: the images at every scale, as `inputs.transforms` resizes them."""
        _, height, width, _ = images.shape
        protocol = self.protocol
        return tuple(
            resize_bytes(images, *fit_size(height, width, scale))
            for scale in scales(protocol.scale, protocol.ratios)
        )

    def infer(self, variables: Variables, images: Images, scales: tuple[Images, ...]) -> Result:
        """The second step: the result. Of `images`, only the size matters."""
        result = self.request.result
        # All factors in float32: on an accelerator, and without Winograd's rounding on a CPU.
        with jax.default_matmul_precision("highest"):
            model = self.request.restored.network.bind_for_inference(variables)
            if result == "logits":
                return model(normalize(scales[0]))
            scores = inference.low_resolution_scores(
                model,
                tuple(Scaled(some, _sizes(some)) for some in scales),
                _sizes(images),
                (images.shape[1], images.shape[2]),
                self.protocol,
                padded=False,
            )
            # Without windows, no kernel of this project's own is used.
            scores = [score._replace(windows=None) for score in scores]
            if result == "indices":
                return inference.class_indices(scores)
            return jnp.moveaxis(inference.probabilities(scores), 1, -1)


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
