"""Decoding: the chosen frames, in every container, and a clear refusal of what is no video."""

import io
import os
import struct

import av
import numpy as np
import pytest
import videos

from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.video import decode


def every(count):
    return np.arange(count)


def numbers(content, choose=every):
    chosen = decode.decode_frames(content, "a video", choose)
    return videos.read_numbers(chosen.frames)[chosen.positions].tolist()


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mp4"),
        ("libx264", "mpegts"),
        ("libx264", "flv"),
        ("libvpx-vp9", "webm"),
        ("mpeg4", "avi"),
        ("mpeg2video", "mpeg"),
        ("wmv2", "asf"),
        ("libx264", "matroska"),
    ],
)
def test_every_frame_of_a_file_in_order(codec, container):
    content = videos.encode(videos.numbered(30), codec, container)
    assert numbers(content) == list(range(30))


@pytest.mark.parametrize("wanted", [[0], [29], [7, 7, 3], [29, 0, 12], [[4, 5], [28, 4]]])
def test_chosen_frames_come_in_the_order_and_shape_of_the_choice(wanted):
    content = videos.encode(videos.numbered(30))
    assert numbers(content, lambda _: np.array(wanted)) == wanted


def test_colours_and_size_are_the_files_own():
    frames = np.zeros((3, 50, 38, 3), np.uint8)
    frames[:] = (200, 40, 90)
    chosen = decode.decode_frames(videos.encode(frames, pixels="yuv444p"), "a video", every)
    assert chosen.frames.shape == frames.shape
    np.testing.assert_allclose(chosen.frames, frames, atol=3)


def test_a_path_and_its_bytes_give_the_same(tmp_path):
    videos.write(tmp_path / "a b.mp4", 12)
    assert numbers(tmp_path / "a b.mp4") == numbers((tmp_path / "a b.mp4").read_bytes())


def test_the_number_of_frames_is_what_can_be_decoded():
    """Packets before the first key frame are stored, and give no frame."""
    whole = videos.encode(videos.numbered(40), g="10", sc_threshold="0", bf="0")
    cut = io.BytesIO()
    with av.open(io.BytesIO(whole)) as source, av.open(cut, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= 5:
                packet.stream = stream
                target.mux(packet)
    counts = []
    found = numbers(cut.getvalue(), lambda count: counts.append(count) or every(count))
    assert counts == [35, 30] and found == list(range(10, 40))


def test_frames_beyond_the_limit_are_left_out(monkeypatch):
    monkeypatch.setattr(decode, "MOST_FRAMES", 20)
    assert numbers(videos.encode(videos.numbered(30))) == list(range(20))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_phones_video_is_turned_upright(quarters):
    """A file's header says how a player has to turn the frames."""
    frames = videos.numbered(4)
    content = videos.encode(frames)
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    matrix = struct.pack(
        ">9i", *(v << 16 for v in (cosine, sine, 0, -sine, cosine, 0, 0, 0)), 1 << 30
    )
    at = content.index(b"tkhd") + 4 + 40
    turned = content[:at] + matrix + content[at + len(matrix) :]
    plain = decode.decode_frames(content, "a video", every).frames
    upright = decode.decode_frames(turned, "a video", every).frames
    np.testing.assert_array_equal(upright, np.rot90(plain, -quarters, axes=(1, 2)))


def _audio():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid data"),
        (b"no video" * 999, "Invalid data"),
        (videos.encode(videos.numbered(30))[:-500], ""),
        (_audio(), "holds no video"),
    ],
    ids=["empty", "text", "cut", "sound"],
)
def test_what_is_no_video_is_refused_with_its_name(content, message):
    with pytest.raises(UserError, match=f"jump/7.mp4 cannot be decoded.*{message}"):
        decode.decode_frames(content, "jump/7.mp4", every)


def test_frames_that_would_fill_the_memory_are_refused(monkeypatch):
    content = videos.encode(videos.numbered(4))
    monkeypatch.setattr(decode, "MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(UserError, match="64x48 pixels are too large"):
        decode.decode_frames(content, "a video", every)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path, tmp_path / "pipe.mp4", tmp_path / "none.mp4"):
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            decode.decode_frames(path, str(path), every)


def test_a_playlist_opens_no_other_file(tmp_path):
    videos.write(tmp_path / "secret.mp4")
    (tmp_path / "segment.ts").write_bytes(videos.encode(videos.numbered(8), container="mpegts"))
    lists = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/segment.ts\n"
        "#EXT-X-ENDLIST\n",
        "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name} cannot be decoded"):
            decode.decode_frames(tmp_path / name, name, every)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_damaged_bytes_give_frames_or_a_user_error(container):
    content = videos.encode(videos.numbered(16), container=container)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 20)):
            damaged[place] = rng.integers(256)
        try:
            chosen = decode.decode_frames(bytes(damaged), "a video", every)
        except UserError:
            continue
        assert chosen.frames.dtype == np.uint8 and chosen.frames.ndim == 4
