"""A network with its protocol as an ONNX model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import helper

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.exporting.description import describe
from nonlocal_jax.exporting.function import Exported, Images, tracing
from nonlocal_jax.exporting.onnx.convert import Converter
from nonlocal_jax.exporting.onnx.step import Unsupported
from nonlocal_jax.exporting.request import Request

INPUT = "images"


def build(request: Request) -> onnx.ModelProto:
    """The model of a request: `images`, uint8 [batch, height, width, 3], to what it returns.

    The output has the name of `request.result`. The metadata holds what `description.describe`
    returns: texts as they are, and all else as JSON.

    Raises:
      UserError: the network computes in another dtype than float32, or needs known sizes, or
        something that ONNX has no counterpart for.
    """
    model = request.restored.config.model
    require_float32(request.restored)
    try:
        with tracing(request):
            built = _convert(Exported(request))
    except Unsupported as error:
        raise UserError(
            f"The head {model.decode_head.name!r} can't be written as ONNX, which has no "
            f"counterpart for JAX's {error}. Nothing was written."
        ) from error
    described = describe(request).items()
    helper.set_model_props(
        built, {key: v if isinstance(v, str) else json.dumps(v) for key, v in described}
    )
    return built


def require_float32(restored: Restored) -> None:
    """Refuses a network that computes in another dtype.

    Raises:
      UserError: it does.
    """
    computes_in = {np.dtype(array.dtype) for array in restored.variables.values()}
    if computes_in != {np.dtype(np.float32)}:
        raise UserError(
            "ONNX Runtime computes in float32 on a CPU and in a browser, and this network does "
            "not: add --config.model.dtype=float32."
        )


def _convert(function: Exported) -> onnx.ModelProto:
    """Resizing and the network are traced apart; see `Exported`."""
    variables = function.variables
    names, sides = ["batch", "height", "width"], []
    for number in range(len(function.protocol.ratios)):
        sides += [f"rows{number}", f"columns{number}"]
    constraints = [f"{name} >= 1" for name in names]
    constraints += [f"{name} >= {function.smallest}" for name in sides]
    batch, height, width, *sizes = jax.export.symbolic_shape(
        ", ".join([*names, *sides]), constraints=constraints
    )
    converter = Converter(INPUT, jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8))
    scales = converter.add(function.scale, converter.input)
    scales = [
        converter.measured(scale, (batch, *size, 3))
        for scale, size in zip(scales, zip(sizes[::2], sizes[1::2], strict=True), strict=True)
    ]

    def infer(images: Images, *scales: Images) -> jax.Array:
        return function.infer(variables, images, scales)

    (result,) = converter.add(infer, converter.input, *scales)
    return converter.model(function.request.result, result)
