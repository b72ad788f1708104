"""Writes an ONNX file, if ONNX Runtime computes what JAX does."""

from nonlocal_jax.exporting import check
from nonlocal_jax.exporting.onnx.graph import OPSET
from nonlocal_jax.exporting.onnx.network import build
from nonlocal_jax.exporting.onnx.session import Session
from nonlocal_jax.exporting.request import Request, Written
from nonlocal_jax.reporting import pictures


def write(request: Request) -> Written:
    """Writes the file `request.output`.

    Raises:
      UserError: the network has no counterpart in ONNX, ONNX Runtime can't run it, results differ
        from JAX's, or the file can't be written.
    """
    content = build(request).SerializeToString()
    told = check.compare(request, Session(content))
    pictures.write(request.output, content)
    size = f"{len(content) / 1e6:,.1f} MB"
    return Written([told, f"Wrote {request.output} ({size}), ONNX of opset {OPSET}."])
