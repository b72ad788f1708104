"""Generated videos in which one frame says nothing, and all of them together say the class.

A shape moves through the light of two lamps, a red one below and a green one on the right, so that
its colour tells its place. When it leaves, it comes in again at the opposite edge. The class is the
direction of its motion: none, along the rows, along the columns, or diagonal. A mirrored video has
the same class.

What a network without time can do is known:

- The place of the shape in any one frame is uniform for every class, and all else is drawn without
  regard to the class.
- A C2D without non-local blocks sees two neighbouring frames at once (its pool after res2), and
  averages logits of such pairs. Each place is held for `HOLD` frames, so with frames=8 and
  frame_stride=2 the two frames of a pair are equal.
- So its expected logits are the same for every class. Cross-entropy is convex in the logits, so its
  expected loss is at least log 4, that of guessing. (This holds for fixed statistics of batch norm.
  Those of a small batch carry a little from one frame of a clip to another.)

A C2D with non-local blocks can compare frames, but nothing in it knows their order: a video played
backwards gives the same logits. So the two ways along a direction are one class.
"""

import io

import av
import numpy as np
from jaxtyping import Bool, UInt8

from nonlocal_jax.config.video import VideoData
from nonlocal_jax.inputs.datasets.dataset import SPLITS
from nonlocal_jax.inputs.video.dataset import VideoDataset
from nonlocal_jax.inputs.video.example import EncodedVideo

TASK = "video"
SIDE = 64  # height and width
HOLD = 4  # frames for which the shape stays in a place
PLACES = 4  # one after another
STEP = SIDE // PLACES  # pixels from one place to the next: all places together are once around
COUNTS = {"train": 4000, "val": 200}

CLASS_NAMES = ("still", "rows", "columns", "diagonal")
# Pixels down and to the right from one place to the next, before the sign is drawn for each.
MOTIONS = np.array([[0, 0], [0, STEP], [STEP, 0], [STEP, STEP]])

Video = UInt8[np.ndarray, "16 64 64 3"]

_AWAY = (np.arange(SIDE) + SIDE // 2) % SIDE - SIDE // 2  # signed distance from 0, around the edge
_LIGHT = np.full((SIDE, SIDE, 3), 160.0)
_LIGHT[..., 0] = np.linspace(20, 250, SIDE)[:, None]  # red grows from top to bottom
_LIGHT[..., 1] = np.linspace(20, 250, SIDE)  # green grows from left to right
_SHAPES = (
    np.hypot,  # disc
    np.maximum,  # square
    lambda y, x: y + x,  # diamond
    lambda y, x: np.maximum(y, 2 * x),  # upright bar
)


def build(data: VideoData, data_dir: str) -> VideoDataset:
    """The data set, which has no files."""
    return VideoDataset(
        name="moving_shapes", class_names=CLASS_NAMES, counts=COUNTS, generate=MovingShapes
    )


class MovingShapes:
    """The videos of a split, "train" or "val", encoded; see `make_video`."""

    def __init__(self, split: str):
        self._split = split

    def __len__(self) -> int:
        return COUNTS[self._split]

    def __getitem__(self, index: int) -> EncodedVideo:
        video, label = make_video(self._split, index)
        name = self.name(index)
        return EncodedVideo(encode(video), label, name, f"{name} of moving_shapes")

    def name(self, index: int) -> str:
        """The split and the number of a video."""
        return f"{self._split}_{index}"


def make_video(split: str, index: int) -> tuple[Video, int]:
    """The frames and the class of a video. The same index always gives the same video.

    Args:
      split: "train" or "val": they share no video.
      index: of the video, 0 or more.
    """
    rng = np.random.default_rng([SPLITS.index(split), index])
    label = int(rng.integers(len(CLASS_NAMES)))
    shape = _shape(rng)
    background = rng.uniform(0, 30)
    step = MOTIONS[label] * rng.choice([-1, 1], size=2)
    places = rng.integers(SIDE, size=2) + step * np.arange(PLACES)[:, None]
    frames = [
        np.where(np.roll(shape, place, axis=(0, 1))[..., None], _LIGHT, background)
        for place in places
    ]
    return np.repeat(np.array(frames).astype(np.uint8), HOLD, axis=0), label


def _shape(rng: np.random.Generator) -> Bool[np.ndarray, "64 64"]:
    """The pixels of a disc, square, diamond or bar around pixel (0, 0)."""
    away = np.abs(_AWAY)
    distance = _SHAPES[rng.integers(len(_SHAPES))]
    return np.asarray(distance(away[:, None], away[None, :]) <= rng.uniform(10, 13))


def encode(video: UInt8[np.ndarray, "t h w 3"], rate: int = 25) -> bytes:
    """A video as Motion JPEG in an AVI file.

    Each frame is coded for itself, at a fixed quality. So equal frames stay equal, and no frame
    bears traces of another.

    Args:
      video: the frames, RGB.
      rate: frames per second.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=rate, options={"qmin": "2", "qmax": "2"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuvj444p"
        stream.codec_context.thread_count = 1
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
