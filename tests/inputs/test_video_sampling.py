"""Frames, sizes and crops against the arithmetic that is stated for the reference."""

import struct
from fractions import Fraction

import numpy as np
import pytest
import videos

from nonlocal_jax.config.video import VideoData, VideoEval
from nonlocal_jax.inputs.video import sampling, transforms
from nonlocal_jax.inputs.video.example import EncodedVideo

CASES = 1000


def float32(value):
    """The nearest float32, by packing; exact for products and quotients of float32 values."""
    return struct.unpack("f", struct.pack("f", value))[0]


def cases():
    """Random (frames of the video, frames of a clip, stride, height, width), short videos too."""
    rng = np.random.default_rng(0)
    for _ in range(CASES):
        rate = rng.choice([12, 15, 24, 25, 30, 50, 60])
        count = max(int(rate * rng.uniform(0, 10.2)), 1)
        frames, stride = [(8, 8), (32, 2), (32, 4), (128, 1), (5, 3)][rng.integers(5)]
        yield count, frames, stride, int(rng.integers(90, 1100)), int(rng.integers(90, 2000))


def test_training_clips_wrap_round_and_start_anywhere_that_fits():
    rng = np.random.default_rng(1)
    for count, frames, stride, *_ in cases():
        span = count - frames * stride
        start = sampling.random_start(count, frames, stride, rng.random())
        assert 0 <= start <= max(span, 0)
        assert sampling.random_start(count, frames, stride, np.nextafter(1, 0)) == max(span, 0)
        expected = [(start + i * stride) % count for i in range(frames)]
        assert sampling.clip_indices(start, frames, stride, count).tolist() == expected


def test_starts_are_uniform():
    starts = [sampling.random_start(70, 8, 8, (i + 0.5) / 700) for i in range(700)]
    assert np.bincount(starts).tolist() == [100] * 7


def test_test_clips_are_spaced_in_float32():
    for count, *_ in cases():
        distance = float32(count / 10)
        expected = [int(float32(distance * j)) % count for j in range(10)]
        assert sampling.test_starts(count, 10).tolist() == expected


def test_the_last_test_clips_wrap_to_the_beginning():
    (start,) = sampling.test_starts(100, 10)[-1:]
    assert sampling.clip_indices(int(start), 4, 8, 100).tolist() == [90, 98, 6, 14]


def test_sizes_are_computed_in_float32():
    rng = np.random.default_rng(2)
    for _, _, _, height, width in cases():
        target = int(rng.integers(224, 321))
        ratio = float32(target / min(height, width))
        expected = int(float32(height * ratio)), int(float32(width * ratio))
        assert sampling.resized_size(height, width, target) == expected
        exact = Fraction(target, min(height, width)) * max(height, width)
        assert abs(max(expected) - exact) <= 1


def test_some_sides_come_out_a_pixel_short():
    short = [s for s in range(100, 1081) if sampling.resized_size(s, 2000, 256)[0] != 256]
    assert short[:4] == [107, 109, 110, 115] and {355, 376} < set(short)
    assert all(sampling.resized_size(s, 2000, 256)[0] == 255 for s in short)
    usual = (240, 256, 288, 320, 360, 480, 540, 576, 720, 1080)
    assert not set(usual) & set(short)
    assert transforms.fitting_size(107, 200, 256, 256) == (256, 478)


def test_crops_of_a_test_frame():
    for _, _, _, height, width in cases():
        size = transforms.fitting_size(height, width, 256, 256)
        offset = (max(size) - 256) // 2
        boxes = sampling.test_boxes(size, 256, "three")
        down = size[0] > size[1]
        assert [box[int(down)] for box in boxes] == [0, 0, 0]
        assert [box[0 if down else 1] for box in boxes] == [0, offset, 2 * offset]
        assert all(box[0] + box[2] <= size[0] and box[1] + box[3] <= size[1] for box in boxes)
    assert sampling.test_boxes((256, 341), 224, "center") == [(16, 58, 224, 224)]


def test_random_crops_reach_every_edge():
    edge = np.nextafter(1, 0)
    assert sampling.random_box((256, 300), 224, 0, 0)[:2] == (0, 0)
    assert sampling.random_box((256, 300), 224, edge, edge)[:2] == (32, 76)


def stored(count, size=videos.SIDES):
    content = videos.encode(videos.numbered(count, size), pixels="yuv444p")
    return EncodedVideo(content, 0, "a", "a video")


DATA = VideoData(short_side=(40, 60), crop_size=40, flip_probability=0)


@pytest.mark.parametrize(
    ("count", "frames", "stride"), [(50, 4, 8), (9, 5, 3), (1, 4, 2), (7, 8, 1)]
)
def test_a_training_clip_holds_the_frames_of_its_indices(count, frames, stride):
    data = VideoData(frames=frames, frame_stride=stride, short_side=(48, 48), crop_size=48)
    draws = transforms.Draws(0.7, 48, 0.0, 0.0, False)
    # One pixel wide bars of 64 are cut at 48: the numbers use the six low bars.
    clip = transforms.training_clip(stored(count, (48, 48)), data, draws)
    start = sampling.random_start(count, frames, stride, 0.7)
    assert videos.read_numbers(clip).tolist() == [
        (start + i * stride) % count for i in range(frames)
    ]


def test_a_clip_is_resized_cropped_and_mirrored_alike_in_all_frames():
    still = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 48, 64, 3), np.uint8), 6, 0)
    video = EncodedVideo(videos.encode(still, "ffv1", "matroska", "bgr0"), 0, "a", "a video")
    data = VideoData(frames=6, frame_stride=1, short_side=(50, 50), crop_size=40)
    clip = transforms.training_clip(video, data, transforms.Draws(0, 50, 0.3, 0.6, False))
    assert (clip == clip[0]).all()
    size = sampling.resized_size(48, 64, 50)
    top, left, *_ = sampling.random_box(size, 40, 0.3, 0.6)
    whole = transforms.transforms.resize_image(still[0], size)
    np.testing.assert_array_equal(clip[0], whole[top : top + 40, left : left + 40])
    mirrored = transforms.training_clip(video, data, transforms.Draws(0, 50, 0.3, 0.6, True))
    np.testing.assert_array_equal(mirrored, clip[:, :, ::-1])


def test_thirty_views_clip_by_clip_and_crop_by_crop():
    settings = VideoEval(short_side=48, crop_size=48)
    views = transforms.test_views(stored(37), 4, 2, settings)
    assert views.shape == (30, 4, 48, 48, 3) == views[:].shape and len(views) == 30
    starts = sampling.test_starts(37, 10)
    for number, view in enumerate(views):
        clip, crop = divmod(number, 3)
        frames = sampling.clip_indices(int(starts[clip]), 4, 2, 37)
        whole = views.frames[views.positions[clip]]
        assert videos.read_numbers(whole).tolist() == frames.tolist()
        np.testing.assert_array_equal(view, whole[:, :, 8 * crop : 8 * crop + 48])
        np.testing.assert_array_equal(view, views[number])
    np.testing.assert_array_equal(views[4:7], np.stack([views[i] for i in (4, 5, 6)]))
    np.testing.assert_array_equal(views[-1], views[29])


def test_mirrored_views_follow_the_crops_of_their_clip():
    settings = VideoEval(clips=2, short_side=48, crop_size=48, flip=True)
    views = transforms.test_views(stored(20), 3, 2, settings)
    assert len(views) == 12
    for clip in range(2):
        for crop in range(3):
            plain = views[6 * clip + crop]
            np.testing.assert_array_equal(views[6 * clip + 3 + crop], plain[:, :, ::-1])


def test_a_side_that_comes_out_short_still_gives_whole_crops():
    settings = VideoEval(clips=2)
    views = transforms.test_views(stored(3, (200, 107)), 2, 1, settings)
    assert views[:].shape == (6, 2, 256, 256, 3)
