"""A model in ONNX Runtime."""

import numpy as np
import onnxruntime
from jaxtyping import Shaped, UInt8

from nonlocal_jax.exporting.onnx.network import INPUT
from nonlocal_jax.inputs.cores import usable


class Session:
    """A model with one input, ready to run on this machine's CPU.

    Args:
      content: of the file.
      threads: that it computes with; by default as many as this process may use.
    """

    def __init__(self, content: bytes, threads: int | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable()
        options.log_severity_level = 3  # errors alone
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Shaped[np.ndarray, "n ..."]:
        """The model's result."""
        (result,) = self._session.run(None, {INPUT: images})
        return np.asarray(result)
