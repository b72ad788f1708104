"""Networks as ONNX models: a small converter of JAX programs, and the file it writes."""

from nonlocal_jax.exporting.onnx.file import write

__all__ = ["write"]
