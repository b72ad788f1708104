"""Hub folders: the network's arrays, by our names or by PyTorch's, with config and model card."""

import pathlib

from nonlocal_jax.checkpoints.hub.files import Keys
from nonlocal_jax.checkpoints.hub.save import save
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.evaluation.video.restore import RestoredVideo
from nonlocal_jax.exporting.request import Request, Written


def write(request: Request) -> Written:
    """Writes the folder `request.output`.

    Raises:
      UserError: see `checkpoints.hub.save.save`.
    """
    return write_network(request.restored, request.output, request.keys)


def write_network(restored: Restored | RestoredVideo, output: pathlib.Path, keys: Keys) -> Written:
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
    return Written(
        [f"Written {restored.found} to {folder}, and read back: every value is the checkpoint's."]
    )
