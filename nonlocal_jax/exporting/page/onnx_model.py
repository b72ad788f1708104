"""The ONNX model in the page: classes, queries and keys of a picture at the config's scale."""

import importlib.util
from typing import Any

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

PACKAGES = ("onnx", "onnxruntime")
SAME_CLASSES = 0.999  # share of pixels: rounding may decide between two classes
TOLERANCE = 1e-3  # of queries and keys, relative to the largest

Images = UInt8[Array, "1 h w 3"]


def check_packages() -> None:
    """Makes sure that a model can be made.

    Raises:
      UserError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--with_model needs more packages: pip install {' '.join(missing)}.")


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
    from nonlocal_jax.exporting.onnx.step import Unsupported

    require_float32(request.restored)
    restored = request.restored
    variables = {name: jnp.asarray(value) for name, value in restored.variables.items()}
    exported = Exported(Request(restored, request.output))

    def function(images: Images) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest"):
            network = restored.network.bind_for_inference(variables)
            factors = network.attention_factors(normalize(images)).factors
        found = {
            "indices": exported.infer(variables, images, (images,)),
            "query": jnp.asarray(factors.query),
            "key": jnp.asarray(factors.key),
        }
        if factors.unary is not None:
            found["unary"] = jnp.asarray(factors.unary)
        return found

    (size,) = exported.protocol.input_sizes((image.shape[0], image.shape[1]))
    scaled = resize_image(image, size)[None]
    expected = jax.tree.map(np.asarray, jax.jit(function)(jnp.asarray(scaled)))
    height, width = jax.export.symbolic_shape("h, w", constraints=["h >= 1", "w >= 1"])
    converter = Converter(INPUT, jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8))
    try:
        results = converter.add(
            lambda images: list(map(function(images).__getitem__, expected)), converter.input
        )
    except Unsupported as error:
        raise UserError(
            f"--with_model: the head {restored.config.model.decode_head.name!r} can't be written "
            f"as ONNX, which has no counterpart for JAX's {error}."
        ) from error
    first, *more = zip(expected, results, strict=True)
    content: bytes = converter.model(*first, *more).SerializeToString()
    _check(content, scaled, expected)
    return content


def _check(content: bytes, images: UInt8[np.ndarray, "1 h w 3"], expected: dict[str, Any]) -> None:
    """Raises UserError if the model's results are not the expected ones."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = dict(zip(expected, session.run(list(expected), {"images": images}), strict=True))
    same = float(np.mean(found.pop("indices") == expected["indices"]))
    errors = {
        name: float(np.abs(value - expected[name]).max() / np.abs(expected[name]).max())
        for name, value in found.items()
    }
    say(
        f"{100 * same:.2f}% of the pixels have the class that JAX gives them; queries and keys "
        f"differ by up to {max(errors.values()):.1e} of the largest."
    )
    if same < SAME_CLASSES or max(errors.values()) > TOLERANCE:
        raise UserError(
            f"The ONNX model differs from JAX by more than rounding ({100 * same:.2f}% equal "
            f"classes, relative errors {errors}). The page was not written."
        )
