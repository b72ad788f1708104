"""Hub folders: the network's arrays, by our names or by PyTorch's, with config and model card."""

import pathlib

from nonlocal_jax.checkpoints.hub.files import Keys
from nonlocal_jax.checkpoints.hub.save import save
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.evaluation.video.restore import RestoredVideo
from nonlocal_jax.exporting.request import Request


def write(request: Request) -> list[str]:
    """Writes the folder `request.output`; returns lines that tell what was written.

    Raises:
      UserError: the request asks for what only functions have, or the folder can't be written.
    """
    if request.tta or request.images or request.result != "indices":
        raise UserError(
            "--tta, --result and --input are for exported functions, and --to=safetensors writes "
            "the network's arrays: leave them out."
        )
    return write_network(request.restored, request.output, request.keys)


def write_network(
    restored: Restored | RestoredVideo, output: pathlib.Path, keys: Keys
) -> list[str]:
    """Writes the folder `output`, of a network for images or for videos.

    Raises:
      UserError: see `checkpoints.hub.save.save`.
    """
    palette = restored.palette if isinstance(restored, Restored) else None
    folder = save(
        restored.found,
        restored.config,
        output,
        class_names=restored.class_names,
        palette=palette,
        keys=keys,
    )
    return [
        f"Written {restored.found} to {folder}, and read back: every value is the checkpoint's."
    ]
