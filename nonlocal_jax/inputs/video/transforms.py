"""Training clips, and the views of a video in testing. Pixels stay uint8."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from nonlocal_jax.config.video import VideoData, VideoEval
from nonlocal_jax.inputs import transforms
from nonlocal_jax.inputs.video import decode, sampling
from nonlocal_jax.inputs.video.decode import ChosenFrames
from nonlocal_jax.inputs.video.example import EncodedVideo

Frames = UInt8[np.ndarray, "n h w 3"]


class Draws(NamedTuple):
    """The random numbers of one training clip.

    Attributes:
      start: of the clip, in [0, 1).
      short_side: length of the shorter side of the resized frames.
      down: place of the crop, in [0, 1).
      right: place of the crop, in [0, 1).
      mirrored: whether left and right are exchanged.
    """

    start: float
    short_side: int
    down: float
    right: float
    mirrored: bool

    @classmethod
    def of(cls, data: VideoData, rng: np.random.Generator) -> "Draws":
        """Draws the numbers, always as many and in the same order."""
        low, high = data.short_side
        start, down, right, flip = rng.random(4).tolist()
        side = int(rng.integers(low, high + 1))
        return cls(start, side, down, right, flip < data.flip_probability)


def training_clip(
    video: EncodedVideo, data: VideoData, draws: Draws
) -> UInt8[np.ndarray, "t s s 3"]:
    """A clip of a video: decoded, resized, cropped and mirrored alike in all frames.

    Args:
      video: the stored video.
      data: frames, frame_stride and crop_size of the clip.
      draws: what is random about it.

    Raises:
      UserError: the video cannot be decoded.
    """

    def choose(count: int) -> Int64[np.ndarray, "n"]:
        start = sampling.random_start(count, data.frames, data.frame_stride, draws.start)
        return sampling.clip_indices(start, data.frames, data.frame_stride, count)

    chosen = decode.decode_frames(video.content, video.where, choose)
    height, width = chosen.frames.shape[1:3]
    size = fitting_size(height, width, draws.short_side, data.crop_size)
    box = sampling.random_box(size, data.crop_size, draws.down, draws.right)
    images = [transforms.resize_crop_image(frame, size, box) for frame in chosen.frames]
    if draws.mirrored:
        images = [cv2.flip(image, 1) for image in images]
    clip: Frames = np.stack(images)[chosen.positions]
    return clip


def fitting_size(height: int, width: int, short_side: int, crop: int) -> tuple[int, int]:
    """`sampling.resized_size`, but no side is shorter than a crop.

    The original's rounding may give 255 for a short side of 256, and no crop of 256 fits into that.
    """
    size = sampling.resized_size(height, width, short_side)
    return max(size[0], crop), max(size[1], crop)


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """The views of a video in testing: clip by clip, first the crops, then the mirrored crops.

    Views are copied out of the frames when they are asked for: `views[i]` is one, and `views[i:j]`
    are several in one array. `views.shape` is the shape of all of them in one array.

    Attributes:
      frames: the distinct frames of all clips, resized.
      positions: where the frames of each clip are in `frames`.
      boxes: the crops.
      flip: whether there are mirrored crops.
    """

    frames: Frames
    positions: Int64[np.ndarray, "clips t"]
    boxes: tuple[sampling.Box, ...]
    flip: bool

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Views, frames, height, width and channels."""
        clips, frames = self.positions.shape
        crop = self.boxes[0][2]
        return clips * (1 + self.flip) * len(self.boxes), frames, crop, crop, 3

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> UInt8[np.ndarray, "... t s s 3"]:
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            views = np.empty((len(chosen), *self.shape[1:]), np.uint8)
            for row, number in enumerate(chosen):
                views[row] = self._view(number)
            return views
        return np.ascontiguousarray(self._view(range(len(self))[index]))

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "t s s 3"]]:
        return (self[number] for number in range(len(self)))

    def _view(self, number: int) -> UInt8[np.ndarray, "t s s 3"]:
        rest, crop = divmod(number, len(self.boxes))
        clip, mirrored = divmod(rest, 1 + self.flip)
        top, left, height, width = self.boxes[crop]
        view = self.frames[self.positions[clip], top : top + height, left : left + width]
        return view[:, :, ::-1] if mirrored else view


class Video(NamedTuple):
    """A video as it is tested.

    Attributes:
      views: the views, uint8 [views, t, s, s, 3], made one by one.
      label: its class.
      name: unique in its split.
    """

    views: Views
    label: int
    name: str


def test_views(video: EncodedVideo, frames: int, stride: int, settings: VideoEval) -> Views:
    """The views of a video in testing.

    Args:
      video: the stored video.
      frames: number of frames of a clip.
      stride: distance between them.
      settings: clips, crops, flip, short_side and crop_size.

    Raises:
      UserError: the video cannot be decoded.
    """

    def choose(count: int) -> Int64[np.ndarray, "clips t"]:
        starts = sampling.test_starts(count, settings.clips).tolist()
        return np.stack([sampling.clip_indices(s, frames, stride, count) for s in starts])

    return _views(decode.decode_frames(video.content, video.where, choose), settings)


def views_of_frames(video: Frames, frames: int, stride: int, settings: VideoEval) -> Views:
    """The same as `test_views`, for a video whose frames are all decoded."""
    starts = sampling.test_starts(len(video), settings.clips).tolist()
    chosen = [sampling.clip_indices(start, frames, stride, len(video)) for start in starts]
    wanted, positions = np.unique(np.stack(chosen), return_inverse=True)
    places = positions.reshape(len(starts), frames).astype(np.int64)
    return _views(ChosenFrames(video[wanted], places), settings)


def _views(chosen: ChosenFrames, settings: VideoEval) -> Views:
    height, width = chosen.frames.shape[1:3]
    size = fitting_size(height, width, settings.short_side, settings.crop_size)
    resized = np.stack([transforms.resize_image(frame, size) for frame in chosen.frames])
    boxes = sampling.test_boxes(size, settings.crop_size, settings.crops)
    return Views(resized, chosen.positions, tuple(boxes), settings.flip)
