"""Writes an ONNX file, if ONNX Runtime computes what JAX does."""

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import check
from nonlocal_jax.exporting.onnx.graph import OPSET
from nonlocal_jax.exporting.onnx.network import build
from nonlocal_jax.exporting.onnx.session import Session
from nonlocal_jax.exporting.request import Request
from nonlocal_jax.runtime.files import write_whole


def write(request: Request) -> list[str]:
    """Writes the file `request.output`; returns lines that tell what was written.

    Raises:
      UserError: the network has no counterpart in ONNX, results differ from JAX's, or the file
        can't be written.
    """
    content = build(request).SerializeToString()
    told = check.compare(request, Session(content))
    try:
        write_whole(request.output, content)
    except OSError as error:
        raise UserError(f"{request.output} can't be written: {error.strerror or error}.") from error
    size = f"{len(content) / 1e6:,.1f} MB"
    return [told, f"Wrote {request.output} ({size}), ONNX of opset {OPSET}."]
