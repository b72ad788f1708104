"""Which frames, sizes and crops of a video are used, as in the original (video-nonlocal-net).

The original computes sizes and the starts of test clips in float32, and so do these functions: a
side of 107 pixels that is resized to 256 becomes 255.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int64

Box = tuple[int, int, int, int]  # top, left, height, width
Crops = Literal["three", "center"]  # see VideoEval


def clip_indices(start: int, frames: int, stride: int, count: int) -> Int64[np.ndarray, "{frames}"]:
    """The frames of a clip; behind the last frame of the video comes its first again.

    Args:
      start: index of the first frame.
      frames: number of frames of the clip.
      stride: distance between them.
      count: number of frames of the video.
    """
    return (start + stride * np.arange(frames, dtype=np.int64)) % count


def random_start(count: int, frames: int, stride: int, draw: float) -> int:
    """The first frame of a training clip: uniform over the starts whose clip fits, else 0.

    Args:
      count: number of frames of the video.
      frames: number of frames of the clip.
      stride: distance between them.
      draw: uniform in [0, 1).
    """
    return int(draw * (max(count - frames * stride, 0) + 1))


def test_starts(count: int, clips: int) -> Int64[np.ndarray, "{clips}"]:
    """The first frames of the clips of a video in testing, evenly spaced.

    Args:
      count: number of frames of the video.
      clips: number of clips.
    """
    distance = np.float32(count) / np.float32(clips)
    starts = (distance * np.arange(clips, dtype=np.float32)).astype(np.int64)
    return starts % count


def resized_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width once the shorter side is resized to `short_side`, in float32 and cut to int.

    Args:
      height: of the video.
      width: of the video.
      short_side: what the shorter side is to be; for some sides it becomes one less.
    """
    ratio = np.float32(short_side) / np.float32(min(height, width))
    return int(np.float32(height) * ratio), int(np.float32(width) * ratio)


def random_box(size: tuple[int, int], crop: int, down: float, right: float) -> Box:
    """A square crop whose place is uniform.

    Args:
      size: height and width of the frames, at least `crop`.
      crop: height and width of the crop.
      down: uniform in [0, 1).
      right: uniform in [0, 1).
    """
    height, width = size
    return int(down * (height - crop + 1)), int(right * (width - crop + 1)), crop, crop


def test_boxes(size: tuple[int, int], crop: int, crops: Crops) -> list[Box]:
    """The square crops of a frame in testing.

    Args:
      size: height and width of the frames, at least `crop`.
      crop: height and width of a crop.
      crops: "center" for one in the middle, "three" for three along the longer side.
    """
    top, left = ((side - crop) // 2 for side in size)
    if crops == "center":
        return [(top, left, crop, crop)]
    if size[0] > size[1]:
        return [(times * top, left, crop, crop) for times in range(3)]
    return [(top, times * left, crop, crop) for times in range(3)]
