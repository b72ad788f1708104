"""Small videos whose frames show their own number, and trees of them."""

import io
import pathlib

import av
import numpy as np

SIDES = (64, 48)  # width and height
BITS = 8


def numbered(count, size=SIDES):
    """Frames whose number is written in black and white bars: uint8 [count, h, w, 3]."""
    width, height = size
    bars = np.arange(width) * BITS // width
    values = (np.arange(count)[:, None] >> bars) & 1
    return np.broadcast_to((values * 255)[:, None, :, None], (count, height, width, 3)).astype(
        np.uint8
    )


def read_numbers(frames):
    """The numbers that `numbered` wrote into frames of any size, if they are not mirrored."""
    width = frames.shape[-2]
    middles = (np.arange(BITS) * 2 + 1) * width // (2 * BITS)
    return ((frames[..., frames.shape[-3] // 2, middles, 1] > 127) << np.arange(BITS)).sum(-1)


def encode(frames, codec="libx264", container="mp4", pixels="yuv420p", **options):
    """A video file with these frames."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def write(path: pathlib.Path, count=8, size=SIDES):
    """A video file with `count` numbered frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(numbered(count, size)))


def tree(root, classes=("jump high", "run", "walk"), train=3, val=1):
    """A folder of videos by class; the folders' names have underscores for spaces."""
    for split, each in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            for number in range(each):
                folder = root / split / name.replace(" ", "_")
                write(folder / f"{number}.mp4", 8 + 3 * number + label)
