"""What is exported, and how."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from nonlocal_jax.checkpoints.hub.files import Keys
from nonlocal_jax.config import files, schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.runtime.packages import need

Result = Literal["indices", "probabilities", "logits"]
RESULTS: tuple[Result, ...] = ("indices", "probabilities", "logits")
FORMATS = {
    "stablehlo": "nonlocal_jax.exporting.stablehlo",
    "onnx": "nonlocal_jax.exporting.onnx",
    "savedmodel": "nonlocal_jax.exporting.savedmodel",
    "safetensors": "nonlocal_jax.exporting.safetensors",
    "page": "nonlocal_jax.exporting.page",
}
# The formats of functions: the extra that each needs, and packages of it.
FUNCTIONS = {
    "stablehlo": ("export", "flatbuffers"),
    "onnx": ("onnx", "onnx", "onnxruntime"),
    "savedmodel": ("savedmodel", "flatbuffers", "tensorflow"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """An export.

    Attributes:
      restored: the checkpoint's network, arrays and classes.
      output: the file or folder to write.
      result: what the exported function returns: class indices, probabilities, or the decode
        head's logits.
      tta: average over the config's scales and mirrored images.
      images: files that the export is compared with JAX on; of a page, what it shows.
      keys: names and layouts of the arrays in safetensors: "own" or "pytorch".
      with_model: a page holds the network, too, for visitors' own pictures.
      onnxruntime: folder of onnxruntime-web, for such a page; None: browsers download it.
    """

    restored: Restored
    output: pathlib.Path
    result: Result = "indices"
    tta: bool = False
    images: tuple[pathlib.Path, ...] = ()
    keys: Keys = "own"
    with_model: bool = False
    onnxruntime: pathlib.Path | None = None


class Written(NamedTuple):
    """What an export says when it is done.

    Attributes:
      lines: tell what was written.
      left_out: why each input that was left out could not be used.
    """

    lines: Sequence[str]
    left_out: Sequence[str] = ()


def portable(config: schema.Config) -> schema.Config:
    """A config whose network computes the same wherever it is exported, and runs everywhere.

    "auto" means float32 instead of what this machine's device would compute in, and attention is
    plain XLA instead of a device's kernel.
    """
    values: dict[str, object] = {}
    if config.model.dtype == "auto":
        values["model.dtype"] = "float32"
    if hasattr(config.model.decode_head, "implementation"):
        values["model.decode_head.implementation"] = "chunked"
    return schema.for_segmentation(files.override(config, **values))


def writer(name: str) -> Callable[[Request], Written]:
    """What writes a format.

    Raises:
      UserError: there is no such format, or a package that it needs is missing.
    """
    if name not in FORMATS:
        raise UserError(f"--to is {name!r}; it must be one of {', '.join(FORMATS)}.")
    if name in FUNCTIONS:
        need(f"--to={name}", *FUNCTIONS[name])
    write: Callable[[Request], Written] = importlib.import_module(FORMATS[name]).write
    return write
