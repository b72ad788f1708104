"""The ONNX model in the page: classes, queries and keys of a picture at the config's scale."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.function import Exported
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.inputs.transforms import resize_image
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.runtime.console import say

RESULTS = ("indices", "query", "key", "unary")
SAME_CLASSES = 0.999  # share of pixels: rounding may decide between two classes
TOLERANCE = 1e-3  # of queries and keys, relative to the largest

Images = UInt8[Array, "1 h w 3"]


def make_model(request: Request, image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The model: `images`, uint8 [1, h, w, 3], to `indices`, `query`, `key` and perhaps `unary`.

    The picture is at the config's scale already. Averages (`request.tta`) are left out.

    Args:
      request: the checkpoint.
      image: what the model is compared with JAX on.

    Raises:
      UserError: the network has something that has no counterpart, or results differ from JAX's.
    """
    # These import packages that are optional.
    from nonlocal_jax.exporting.onnx.convert import Converter
    from nonlocal_jax.exporting.onnx.network import INPUT, require_float32
    from nonlocal_jax.exporting.onnx.session import Session
    from nonlocal_jax.exporting.onnx.step import Unsupported

    require_float32(request.restored)
    restored = request.restored
    exported = Exported(Request(restored, request.output))
    variables = exported.variables

    def function(images: Images) -> tuple[Array, ...]:
        """Results in the order of RESULTS; without a unary map, one fewer."""
        with jax.default_matmul_precision("highest"):
            network = restored.network.bind_for_inference(variables)
            factors = network.attention_factors(normalize(images)).factors
        maps = (factors.query, factors.key, factors.unary)
        indices = exported.infer(variables, images, (images,))
        return (indices, *(jnp.asarray(part) for part in maps if part is not None))

    (size,) = exported.protocol.input_sizes((image.shape[0], image.shape[1]))
    scaled = resize_image(image, size)[None]
    expected = [np.asarray(part) for part in jax.jit(function)(jnp.asarray(scaled))]
    height, width = jax.export.symbolic_shape("h, w", constraints=["h >= 1", "w >= 1"])
    converter = Converter(INPUT, jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8))
    try:
        results = converter.add(function, converter.input)
    except Unsupported as error:
        raise UserError(
            f"--with_model: the head {restored.config.model.decode_head.name!r} can't be written "
            f"as ONNX, which has no counterpart for JAX's {error}."
        ) from error
    names = RESULTS[: len(results)]
    first, *more = zip(names, results, strict=True)
    content: bytes = converter.model(*first, *more).SerializeToString()
    check(Session(content).results(scaled), dict(zip(names, expected, strict=True)))
    return content


def check(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Compares a model's results with JAX's, by name, and prints how far they differ.

    Raises:
      UserError: by more than rounding, or some are not finite.
    """
    same = float(np.mean(found["indices"] == expected["indices"]))
    errors = {
        name: float(np.abs(found[name] - value).max() / np.maximum(np.abs(value).max(), 1e-30))
        for name, value in expected.items()
        if name != "indices"
    }
    say(
        f"{100 * same:.2f}% of the pixels have the class that JAX gives them; queries and keys "
        f"differ by up to {np.max([*errors.values()]):.1e} of the largest."
    )
    if not (same >= SAME_CLASSES and all(error <= TOLERANCE for error in errors.values())):
        raise UserError(
            f"The ONNX model differs from JAX by more than rounding ({100 * same:.2f}% equal "
            f"classes, relative errors {errors}). The page was not written."
        )
