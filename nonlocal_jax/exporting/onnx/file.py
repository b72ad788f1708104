"""Writes an ONNX file."""

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.onnx.graph import OPSET
from nonlocal_jax.exporting.onnx.network import build
from nonlocal_jax.exporting.onnx.session import Session
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.runtime.files import write_whole


def write(request: Request) -> list[str]:
    """Writes the file `request.output`; returns lines that tell what was written.

    Raises:
      UserError: the network has no counterpart in ONNX, or differs there, or the file can't be
        written.
    """
    content = build(request).SerializeToString()
    Session(content)
    try:
        write_whole(request.output, content)
    except OSError as error:
        raise UserError(f"{request.output} can't be written: {error.strerror or error}.") from error
    return [f"{request.output}: ONNX, opset {OPSET}, {len(content) / 1e6:.1f} MB."]
