"""The page of a segmentation network."""

import pathlib

import numpy as np
from jaxtyping import UInt8

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.evaluation.restore import Restored
from nonlocal_jax.evaluation.segment_files import ImageFiles
from nonlocal_jax.exporting.page import assemble, onnx_model
from nonlocal_jax.exporting.page.entry import Entry, Exhibit, Point, make_entry
from nonlocal_jax.exporting.page.own_picture import OwnPicture, read_runtime
from nonlocal_jax.exporting.request import Request, Written
from nonlocal_jax.reporting import pictures
from nonlocal_jax.runtime.console import say


def write(request: Request) -> Written:
    """Writes the page of those of `request.images` that can be read.

    Raises:
      UserError: no image can be read, the head's attention is not of the form that the page can
        compute, or the file can't be written.
    """
    _check(request.restored)
    restored, runtime = request.restored, read_runtime(request.onnxruntime)
    model = Predictor(restored, tta=request.tta)
    files = ImageFiles(list(request.images), restored.config.data.max_pixels)
    entries, first = [], None
    for index, path in enumerate(files.paths):
        files.read(index)
        image = files.take(index)
        if image is not None:
            first = image if first is None else first
            entries.append(_entry(model, path, image))
            say(f"{path}: {len(entries)} of {len(files.paths)}")
    if first is None:
        raise UserError("None of the pictures could be read.")
    own = None
    if request.with_model:
        say("Writing the network as ONNX, and comparing it with JAX.")
        content = onnx_model.make_model(request, first)
        own = OwnPicture(content, entries[0].kind, restored.config.eval.scale, runtime)
    data = assemble.page_data(
        entries,
        network=_network_line(restored.config, model),
        class_names=restored.class_names,
        palette=restored.palette,
        own=own,
    )
    lines = assemble.write_page(request.output, data, entries, own)
    return Written(lines, list(files.bad.values()))


def first_point(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int]:
    """The inmost pixel of the class that covers the most after the most common one."""
    labels, counts = np.unique(mask, return_counts=True)
    chosen = labels[np.argsort(-counts, kind="stable")[:2][-1]]
    return pictures.inmost(mask == chosen)


def _check(restored: Restored) -> None:
    """Refuses, before anything is computed, what can't become a page."""
    head = restored.config.model.decode_head.name
    if not restored.network.has_attention_factors:
        raise UserError(
            f"A page shows attention that is a product of queries and keys; that of the head "
            f"{head} (config.model.decode_head.name) is not. nonlocal, dnl and da have it."
        )


def _entry(model: Predictor, path: pathlib.Path, image: UInt8[np.ndarray, "h w 3"]) -> Entry:
    mask = model.predict(image)

    def attend(point: Point) -> np.ndarray:
        return model.attention(image, point[1:])

    exhibit = Exhibit(
        path=path,
        frames=image[None],
        factors=model.attention_factors(image),
        attend=attend,
        point=(0, *first_point(mask)),
        mask=mask,
    )
    return make_entry(exhibit)


def _network_line(config: schema.Config, model: Predictor) -> str:
    head, backbone = config.model.decode_head, config.model.backbone
    mode = f" ({mode})" if (mode := getattr(head, "mode", "")) else ""
    return (
        f"Head {head.name}{mode} on {backbone.name} {getattr(backbone, 'depth', '')}, "
        f"{len(model.class_names)} classes, {assemble.checkpoint_name(model.found)}"
    )
