"""A model in ONNX Runtime."""

import contextlib
from collections.abc import Iterator

import numpy as np
import onnxruntime
from jaxtyping import Shaped, UInt8

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.onnx.network import INPUT
from nonlocal_jax.inputs.cores import usable


class Session:
    """A model with one input, ready to run on this machine's CPU.

    Args:
      content: of the file.
      threads: that it computes with; by default as many as this process may use.

    Raises:
      UserError: ONNX Runtime can't run the model.
    """

    def __init__(self, content: bytes, threads: int | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable()
        options.log_severity_level = 3  # errors alone
        with _errors_told():
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> Shaped[np.ndarray, "n ..."]:
        """The result of a model that has one.

        Raises:
          UserError: ONNX Runtime can't compute it.
        """
        (result,) = self.results(images).values()
        return result

    def results(self, images: UInt8[np.ndarray, "n h w 3"]) -> dict[str, Shaped[np.ndarray, "..."]]:
        """All results by name.

        Raises:
          UserError: ONNX Runtime can't compute them.
        """
        names = [output.name for output in self._session.get_outputs()]
        with _errors_told():
            found = self._session.run(names, {INPUT: images})
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}


@contextlib.contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's own have no class in common
        reason = str(error).strip().partition("\n")[0].removesuffix(".")
        raise UserError(
            f"ONNX Runtime can't run this network: {reason}. Nothing was written."
        ) from error
