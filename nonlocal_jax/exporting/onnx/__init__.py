"""Networks as ONNX models: a small converter of JAX programs, and the file it writes."""

from nonlocal_jax.errors import UserError

try:
    import onnx as _onnx
    import onnxruntime as _onnxruntime
except ImportError as _error:
    raise UserError(
        f'--to=onnx needs the package {_error.name}: pip install "nonlocal_jax[onnx]".'
    ) from _error

from nonlocal_jax.exporting.onnx.file import write

__all__ = ["write"]
del _onnx, _onnxruntime
