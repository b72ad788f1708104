"""A checkpoint with its protocol as one function of arrays: from bytes of images to results.

It does what evaluation does (evaluation/predictor.py), in JAX from the first step to the last, for
images of any size: height, width and number may be symbols of `jax.export`. Every image is its own
array here, so there is no padding.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped, UInt8

from nonlocal_jax.errors import UserError
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

    @property
    def smallest(self) -> int:
        """The least height and width of a resized image: sub_sample needs two positions.

        Evaluation refuses an image that is smaller then. An export stretches it: it can't refuse.
        """
        restored = self.request.restored
        pools = getattr(restored.config.model.decode_head, "sub_sample", False)
        return restored.network.output_stride + 1 if pools else 1

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
            resize_bytes(images, *fit_size(height, width, scale, self.smallest))
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


@contextlib.contextmanager
def tracing(request: Request) -> Iterator[None]:
    """A context that traces a request's function with symbols for the sizes of images.

    Raises:
      UserError: the head does something that JAX does for known sizes alone.
    """
    try:
        yield
    except (jax.errors.InconclusiveDimensionOperation, jax.errors.JAXTypeError) as error:
        name = request.restored.config.model.decode_head.name
        raise UserError(
            f"The head {name!r}, as it is configured, can't be exported: a part of it can only be "
            f"traced for images of a known size ({type(error).__name__})."
        ) from error


def fit_size(height: Dim, width: Dim, scale: tuple[int, int], smallest: int = 1) -> tuple[Dim, Dim]:
    """`inputs.transforms.fit_size`, of dimensions that may be symbols; see `Exported.smallest`."""
    long, short = larger(height, width), smaller(height, width)

    def fitted(size: Dim) -> Dim:
        # The factor is the smaller of two quotients, and a rounded product grows with its factor.
        by_long, by_short = (
            (2 * size * bound + side) // (2 * side)
            for bound, side in ((max(scale), long), (min(scale), short))
        )
        return larger(smaller(by_long, by_short), smallest)

    return fitted(height), fitted(width)


def _sizes(images: Images) -> Int[Array, "n 2"]:
    """Height and width of each image."""
    size = jnp.stack([jnp.asarray(length, jnp.int32) for length in images.shape[1:3]])
    return jnp.broadcast_to(size, (images.shape[0], 2))
