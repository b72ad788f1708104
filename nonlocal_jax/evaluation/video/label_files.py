"""Labels video files: the most probable classes of each, and strips of what a pixel attends to."""

import json
import pathlib
from collections.abc import Sequence

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.segment_files import first_sentence, output_names
from nonlocal_jax.evaluation.video.predictor import Attended, VideoPredictor
from nonlocal_jax.reporting import attention, pictures
from nonlocal_jax.runtime.console import say

Point = tuple[int, int, int]
FRAME_SIDE = 160  # largest height and width of a frame in a strip
PER_ROW = 8  # frames in a row of a strip


def label_files(
    paths: Sequence[pathlib.Path],
    output: pathlib.Path,
    model: VideoPredictor,
    *,
    point: Point | None = None,
) -> dict[pathlib.Path, str]:
    """Prints the five most probable classes of each video, and writes them to predictions.json.

    Args:
      paths: the videos.
      output: the folder.
      model: the network.
      point: frame, row and column: write what that pixel attends to, as attention/NAME.png.

    Returns:
      The reason for each video that could not be read.

    Raises:
      UserError: a file can't be written, the network has no attention, or it has another fault.
    """
    if point is not None and not model.attention_blocks:
        raise UserError("--attend needs a network with config.model.backbone.non_local=True.")
    say("The first video takes longest: its programs are compiled.")
    results: dict[str, list[dict[str, object]]] = {}
    bad: dict[pathlib.Path, str] = {}
    for path, name in zip(paths, output_names(list(paths)), strict=True):
        try:
            top = model.top(path)
            attended = None if point is None else model.attention(path, point)
        except UserError as error:
            bad[path] = first_sentence(error)
            say(f"Left out: {bad[path]}")
            continue
        results[str(path)] = [{"class": n, "probability": round(p, 6)} for n, p in top]
        listed = "\n".join(f"  {100 * share:6.2f}%  {title}" for title, share in top)
        print(f"{path}\n{listed}", flush=True)
        if attended is not None and point is not None:
            picture = attention_strip(attended, point)
            pictures.write_png(output / "attention" / f"{name}.png", picture)
    pictures.write(output / "predictions.json", json.dumps(results, indent=1))
    return bad


def attention_strip(attended: Attended, point: Point) -> pictures.Picture:
    """The frames of a clip, each above what the pixel at `point` attends to in it.

    A cross marks the pixel, in its own frame. The scale of the colours is below.
    """
    clip, weights = attended
    frames = len(clip)
    cells = []
    for number, frame in enumerate(clip):
        seen = weights[number * len(weights) // frames]
        mark = point[1:] if number == point[0] else None
        heat = attention.overlay(frame, seen, mark, uniform=float(weights.mean()))
        cells.append(pictures.shrink(pictures.stack([frame, heat]), 2 * FRAME_SIDE))
    strip = pictures.grid(cells, min(PER_ROW, frames))
    peak = attention.peak(weights.reshape(len(weights), -1))
    told = pictures.caption(f"+ attends {peak}", strip.shape[1])
    return pictures.stack([strip, attention.bar(clip[0], strip.shape[1]), told])
