"""The page of a video network with non-local blocks."""

import pathlib
from collections.abc import Sequence

import numpy as np

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.segment_files import first_sentence
from nonlocal_jax.evaluation.video.predictor import VideoPredictor
from nonlocal_jax.evaluation.video.restore import RestoredVideo
from nonlocal_jax.exporting.page import assemble
from nonlocal_jax.exporting.page.entry import Entry, Exhibit, Point, make_entry
from nonlocal_jax.exporting.request import Written
from nonlocal_jax.runtime.console import say


def write_videos(
    restored: RestoredVideo, output: pathlib.Path, paths: Sequence[pathlib.Path], *, tta: bool
) -> Written:
    """Writes the page of those of some videos that can be read: their middle clips.

    Args:
      restored: the checkpoint.
      output: the file.
      paths: the videos.
      tta: average the predicted classes over mirrored views.

    Raises:
      UserError: the network has no non-local block, or the file can't be written.
    """
    model = VideoPredictor(restored, tta=tta)
    if not model.attention_blocks:
        raise UserError(
            "A page shows non-local blocks, and this network has none "
            "(config.model.backbone.non_local)."
        )
    entries, left_out = [], []
    for number, path in enumerate(paths, 1):
        try:
            entries.append(_entry(model, path))
        except UserError as error:
            left_out.append(first_sentence(error))
            say(f"Left out: {left_out[-1]}")
            continue
        say(f"{path}: {number} of {len(paths)}")
    if not entries:
        raise UserError("None of the videos could be used.")
    backbone = restored.config.model.backbone
    checkpoint = assemble.checkpoint_name(model.found)
    line = f"Block {model.attention_blocks[-1]} of {backbone.name}, {checkpoint}"
    data = assemble.page_data(entries, network=line)
    lines = assemble.write_page(output, data, entries, unit="video")
    return Written(lines, left_out)


def _entry(model: VideoPredictor, path: pathlib.Path) -> Entry:
    clip, factors = model.attention_factors(path)

    def attend(point: Point) -> np.ndarray:
        return model.attention(path, point).weights

    frames, height, width = clip.shape[:3]
    exhibit = Exhibit(
        path=path,
        frames=clip,
        factors=factors,
        attend=attend,
        point=(frames // 2, height // 2, width // 2),
        top=model.top(path),
    )
    return make_entry(exhibit)
