"""Decodes chosen frames of a video with PyAV, which brings FFmpeg's decoders."""

import collections
import contextlib
import io
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import Int64, UInt8

from nonlocal_jax.errors import UserError

MOST_FRAMES = 10_000  # of a video; the original leaves out the rest as well
MOST_PIXELS = 1 << 26  # of a frame; a header that claims more is refused
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".wmv")
# Playlists would open other files and addresses, so these containers alone are read.
FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc"

Choose = Callable[[int], Int64[np.ndarray, "..."]]
"""From the number of frames of a video to the indices of the frames that are wanted."""


class ChosenFrames(NamedTuple):
    """Frames of a video, each of them once.

    Attributes:
      frames: the distinct frames that were chosen, RGB, in the order of the video.
      positions: where each chosen frame is in `frames`; the shape is that of the choice.
    """

    frames: UInt8[np.ndarray, "n h w 3"]
    positions: Int64[np.ndarray, "..."]


class VideoSize(NamedTuple):
    """The number of frames of a video, and their height and width."""

    frames: int
    height: int
    width: int


def decode_frames(content: bytes | pathlib.Path, where: str, choose: Choose) -> ChosenFrames:
    """Decodes the frames that are chosen, at the video's own size and rate.

    Decoding stops at the last chosen frame. The number of frames is that of the stored packets. If
    decoding ends before a chosen frame, it is the number of decoded frames, and `choose` is called
    again.

    Args:
      content: the file's bytes, or its path.
      where: the video's place, for errors.
      choose: is given the number of frames, at most MOST_FRAMES.

    Raises:
      UserError: the video cannot be read, or has no frame.
    """
    with _errors(where), _file(content) as file:
        count = _count_packets(file)
        while count:
            wanted, positions = np.unique(choose(count), return_inverse=True)
            frames, seen = _read(file, wanted.tolist())
            if len(frames) == len(wanted):
                return ChosenFrames(np.stack(frames), positions.astype(np.int64))
            count = seen
        raise ValueError("it has no frame")


def measure(content: bytes | pathlib.Path, where: str) -> VideoSize:
    """Decodes a whole video, and says how many frames of what size it has.

    Args:
      content: the file's bytes, or its path.
      where: the video's place, for errors.

    Raises:
      UserError: the video cannot be read, has no frame, or its frames differ in size.
    """
    sizes = collections.Counter[tuple[int, int]]()
    with _errors(where), _file(content) as file:
        with _opened(file) as container:
            for frame in itertools.islice(container.decode(video=0), MOST_FRAMES):
                sizes[frame.height, frame.width] += 1
        if len(sizes) != 1:
            raise ValueError("its frames differ in size" if sizes else "it has no frame")
    ((height, width), frames) = sizes.popitem()
    return VideoSize(frames, height, width)


@contextlib.contextmanager
def _errors(where: str) -> Iterator[None]:
    """Turns what reading and decoding raise into a UserError that names the video."""
    try:
        yield
    except av.FFmpegError as error:  # some of them are OSErrors or ValueErrors as well
        raise _undecodable(where, error.strerror or str(error)) from error
    except OSError as error:
        raise UserError(
            f"{where} cannot be read ({error.strerror}). Check the file, or leave it out with "
            "--config.data.on_bad_example=skip."
        ) from error
    except (ValueError, MemoryError, OverflowError) as error:
        raise _undecodable(where, str(error)) from error


@contextlib.contextmanager
def _file(content: bytes | pathlib.Path) -> Iterator[io.BufferedIOBase]:
    """An open file: FFmpeg would take some paths for addresses."""
    if isinstance(content, bytes):
        yield io.BytesIO(content)
        return
    if content.exists() and not content.is_file():  # opening a pipe would wait for ever
        raise OSError(0, "it is not a file")
    with content.open("rb") as file:
        yield file


@contextlib.contextmanager
def _opened(file: io.BufferedIOBase) -> Iterator[InputContainer]:
    """The container of a file, read from its beginning; the decoder uses this thread alone."""
    file.seek(0)
    options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
    with av.open(file, "r", container_options=options, metadata_errors="replace") as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its codec is unknown")
        if stream.width * stream.height > MOST_PIXELS:
            raise ValueError(f"its frames of {stream.width}x{stream.height} pixels are too large")
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        yield container


def _count_packets(file: io.BufferedIOBase) -> int:
    """The number of packets that hold a frame, without decoding them."""
    with _opened(file) as container:
        packets = (p for p in container.demux(video=0) if p.size and not p.is_discard)
        return sum(1 for _ in itertools.islice(packets, MOST_FRAMES))


def _read(
    file: io.BufferedIOBase, wanted: list[int]
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], int]:
    """The wanted frames as far as there are any, and the number of frames that were decoded.

    Args:
      file: the video.
      wanted: ascending indices of frames.
    """
    frames: list[UInt8[np.ndarray, "h w 3"]] = []
    seen = 0
    with _opened(file) as container:
        for frame in container.decode(video=0):
            if seen == wanted[len(frames)]:
                frames.append(_upright(frame))
                if frames[-1].shape != frames[0].shape:
                    raise ValueError("its frames differ in size")
            seen += 1
            if len(frames) == len(wanted):
                break
    return frames, seen


def _upright(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    """A frame as RGB, rotated as the file says: phones store upright videos lying down."""
    image = frame.to_ndarray(format="rgb24", threads=1)
    quarters = round(frame.rotation / 90)  # counterclockwise
    return np.rot90(image, quarters) if quarters else image


def _undecodable(where: str, why: str) -> UserError:
    return UserError(
        f"{where} cannot be decoded as a video: {why}. Download or copy it again, or leave it out "
        "with --config.data.on_bad_example=skip."
    )
