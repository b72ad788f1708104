"""Every video run sees the same batches, whatever reads them; and what the data sets promise."""

import dataclasses
import os
import pathlib
import pickle

import numpy as np
import pytest
import videos

from nonlocal_jax.config.schema import Data
from nonlocal_jax.config.video import VideoData, VideoEval
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets
from nonlocal_jax.inputs.datasets import kinetics, moving_shapes
from nonlocal_jax.inputs.video import dataset, decode, sources
from nonlocal_jax.inputs.video.loader import RandomClip, VideoInputs

CLASSES = ("jump high", "run", "walk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    videos.tree(root, CLASSES)
    return root


def small(root, seed=0, num_classes=3, batch_size=4, **data):
    usual = {
        "name": "video_folder",
        "frames": 4,
        "frame_stride": 2,
        "short_side": (40, 48),
        "crop_size": 32,
        "num_threads": 2,
    }
    return VideoInputs(
        data=VideoData(**{**usual, **data}),
        eval=VideoEval(clips=2, short_side=40, crop_size=40),
        data_dir=str(root),
        num_classes=num_classes,
        batch_size=batch_size,
        seed=seed,
    )


def take(count, inputs, **options):
    batches = inputs.train_batches(**options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for key in ("clip", "label"):
            np.testing.assert_array_equal(a[key], b[key])


def joined(shares):
    return [
        {key: np.concatenate([share[key] for share in step]) for key in step[0]}
        for step in zip(*shares, strict=True)
    ]


def test_a_batch(folder):
    (batch,) = take(1, small(folder))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "clip": ((4, 4, 32, 32, 3), "uint8"),
        "label": ((4,), "int32"),
    }
    assert set(batch["label"]) <= {0, 1, 2}


def test_a_batch_holds_the_clips_that_its_description_names(folder):
    inputs = small(folder)
    listed = inputs.encoded("train")
    for step, batch in enumerate(take(6, inputs), 1):
        indices = inputs.batch_indices(step)
        assert [listed[index].label for index in indices] == batch["label"].tolist()
        assert ", ".join(map(str, indices)) in inputs.describe_batch(step)
    every = np.reshape([inputs.batch_indices(step) for step in range(1, 10)], (4, 9))
    assert (np.sort(every, axis=1) == np.arange(9)).all()
    assert not (every[0] == every[1]).all()


def test_seeds_differ_and_clips_of_a_video_differ(folder):
    inputs = small(folder, batch_size=9)
    first, second = take(2, inputs)
    assert len({clip.tobytes() for clip in np.concatenate([first["clip"], second["clip"]])}) == 18
    assert not np.array_equal(take(1, small(folder, 1, batch_size=9))[0]["clip"], first["clip"])


@pytest.mark.parametrize("readers", [{"num_threads": 1}, {"num_threads": 4}, {"num_workers": 2}])
def test_threads_and_workers_change_nothing(folder, readers):
    assert_same(take(5, small(folder, **readers)), take(5, small(folder)))


def test_hosts_share_the_same_global_batch(folder):
    inputs = small(folder)
    shares = [take(4, inputs, rows=rows) for rows in ([0, 1], [2, 3])]
    assert_same(joined(shares), take(4, inputs))


def test_resuming_at_any_step(folder):
    inputs = small(folder)
    expected = take(5, inputs)
    for start in (1, 3):
        assert_same(take(5 - start, inputs, start_step=start), expected[start:])
    shares = [take(2, inputs, start_step=1000, rows=rows) for rows in ([0, 1, 2], [3])]
    assert_same(joined(shares), take(2, inputs, start_step=1000))


def test_check_tells_what_is_wrong_before_a_run(folder, tmp_path):
    small(folder).check()
    with pytest.raises(UserError, match=r"--config\.model\.num_classes=3"):
        small(folder, num_classes=5).check()
    videos.tree(tmp_path, CLASSES)
    (tmp_path / "val" / "run" / "0.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"run/0\.mp4 cannot be decoded"):
        small(tmp_path).check()
    small(tmp_path, on_bad_example="skip").check()


def test_bad_videos_raise_or_are_skipped_with_their_names(tmp_path, caplog):
    videos.tree(tmp_path, CLASSES)
    (tmp_path / "train" / "run" / "1.mp4").write_bytes(b"no video")
    (tmp_path / "train" / "walk" / "0.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"run/1\.mp4|walk/0\.mp4"):
        take(3, small(tmp_path))
    skipping = small(tmp_path, on_bad_example="skip")
    with caplog.at_level("WARNING"):
        expected = take(6, skipping)
    named = [
        name for name in ("run/1.mp4", "walk/0.mp4") for r in caplog.records if name in r.message
    ]
    assert named == ["run/1.mp4", "walk/0.mp4"]
    assert_same(take(4, skipping, start_step=2), expected[2:])
    clips = RandomClip(skipping.encoded("train"), skipping.data)
    good, bad = (clips.random_map(i, np.random.default_rng(3)) for i in (5, 4))
    np.testing.assert_array_equal(bad["clip"], good["clip"])
    assert clips.skipped() == [4]
    for path in tmp_path.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="All 9 examples are bad"):
        take(1, skipping)


def test_validation_gives_all_views_of_a_video(folder):
    opened = small(folder).open("val")
    video = opened[1]
    assert len(opened) == 3 and opened.name(1) == video.name == "run/0.mp4"
    assert video.views.shape == (6, 4, 40, 40, 3) and video.label == 1


def test_a_list_names_videos_relative_to_itself_or_anywhere(folder, tmp_path):
    lines = ["a b.mp4 2", f"{folder}/train/run/0.mp4 1", ""]
    videos.write(tmp_path / "a b.mp4")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    listed = small(tmp_path, source="list").encoded("train")
    assert [listed.name(i) for i in range(2)] == ["a b.mp4", f"{folder}/train/run/0.mp4"]
    assert [listed[i].label for i in range(2)] == [2, 1]
    assert listed[0].content == tmp_path / "a b.mp4"
    assert decode.decode_frames(listed[1].content, "", np.arange).frames.shape[0] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4", "Line 1 .* must be `path label`"),
        ("a.mp4 1\nb.mp4 x", "Line 2 .* must be `path label`"),
        ("a.mp4 -1", "must be `path label`"),
        ("a.mp4 3", "label 3, and there are 3 classes"),
        ("\n\n", "names no video"),
    ],
)
def test_a_bad_list_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        sources.read_list(tmp_path / "train.txt", 3)


def test_folders_are_sorted_by_class_and_name(folder):
    listed = small(folder).encoded("train")
    names = [listed.name(index) for index in range(len(listed))]
    assert names == [f"{c}/{i}.mp4" for c in ("jump_high", "run", "walk") for i in range(3)]
    assert [listed[index].label for index in range(9)] == [0] * 3 + [1] * 3 + [2] * 3


def test_folders_hold_files_only_and_every_video_has_a_class(tmp_path):
    videos.tree(tmp_path, CLASSES, train=1)
    os.mkfifo(tmp_path / "train" / "run" / "pipe.mp4")
    (tmp_path / "train" / "run" / "folder.mp4").mkdir()
    (tmp_path / "train" / "run" / ".hidden.mp4").write_bytes(b"")
    (tmp_path / "train" / "run" / "loop").symlink_to(tmp_path / "train")
    assert len(small(tmp_path).encoded("train")) == 3
    videos.write(tmp_path / "val" / "swim" / "0.mp4")
    with pytest.raises(UserError, match="swim, which is no class"):
        small(tmp_path).encoded("val")


def test_where_a_data_set_is_missing_the_message_says_how_to_get_it(tmp_path):
    data = VideoData(name="kinetics")
    for kind, message in (
        ("auto", "no prepared files, no list train.txt and no folder train"),
        ("array_record", "no prepared files"),
        ("list", r"no list train\.txt"),
        ("folder", "no folder train"),
    ):
        inputs = VideoInputs(
            data=dataclasses.replace(data, source=kind), data_dir=str(tmp_path), num_classes=400
        )
        with pytest.raises(UserError, match=f"{message}.*prepare kinetics"):
            inputs.open("train")


def test_videos_can_be_sent_to_another_process(folder):
    for stored in (small(folder).encoded("train"), moving_shapes.MovingShapes("train")):
        assert pickle.loads(pickle.dumps(stored))[2] == stored[2]


def test_data_sets_of_images_and_of_videos_are_told_apart():
    with pytest.raises(UserError, match="kinetics', which holds videos"):
        datasets.describe(Data(name="kinetics"))
    with pytest.raises(UserError, match="camvid', which holds images"):
        dataset.describe(VideoData(name="camvid"))


def test_the_classes_of_kinetics_are_in_ascii_order(shared):
    names = kinetics.class_names()
    assert len(names) == 400 and list(names) == sorted(names)
    listed = (shared / "video" / "kinetics400_classes.txt").read_text().splitlines()
    assert list(names) == listed


def test_classes_of_an_own_folder(folder, tmp_path):
    assert dataset.describe(VideoData(name="video_folder"), str(folder)).class_names == (
        "jump_high",
        "run",
        "walk",
    )
    with pytest.raises(UserError, match=r"neither classes\.txt nor a folder train"):
        dataset.describe(VideoData(name="video_folder"), str(tmp_path))
    (tmp_path / "classes.txt").write_text("a b\nc\na_b\n")
    with pytest.raises(UserError, match=r"'a b' .* twice"):
        dataset.describe(VideoData(name="video_folder"), str(tmp_path))


MANY = [moving_shapes.make_video("train", index) for index in range(200)]


def test_a_moving_shape_is_the_same_every_time_and_no_other_is_like_it():
    video, label = moving_shapes.make_video("val", 3)
    again = moving_shapes.make_video("val", 3)
    np.testing.assert_array_equal(video, again[0])
    assert label == again[1]
    assert len({video.tobytes() for video, _ in MANY}) == len(MANY)
    assert moving_shapes.encode(video) == moving_shapes.encode(video)


def places(video):
    """Row and column, around the edges, of the shape's middle in each frame."""
    shape = video[..., 2] > 110
    waves = np.exp(2j * np.pi * np.arange(moving_shapes.SIDE) / moving_shapes.SIDE)
    middle = [np.angle((shape.sum(axis) * waves).sum(-1)) for axis in (2, 1)]
    return np.round(np.array(middle).T / (2 * np.pi) * moving_shapes.SIDE).astype(int)


def test_the_class_is_the_direction_of_motion():
    for video, label in MANY:
        moves = np.diff(places(video), axis=0)
        down, right = (np.abs(moves % moving_shapes.SIDE).max(0) > 0).tolist()
        assert (
            moving_shapes.CLASS_NAMES[label]
            == {
                (False, False): "still",
                (False, True): "rows",
                (True, False): "columns",
                (True, True): "diagonal",
            }[down, right]
        )


def test_places_are_held_and_equal_frames_stay_equal_when_decoded():
    encoded = moving_shapes.MovingShapes("train")[0]
    chosen = decode.decode_frames(encoded.content, encoded.where, np.arange)
    held = chosen.frames.reshape(moving_shapes.PLACES, moving_shapes.HOLD, 64, 64, 3)
    assert (held == held[:, :1]).all()
    np.testing.assert_allclose(chosen.frames, MANY[0][0], atol=60)
    assert np.abs(chosen.frames.astype(int) - MANY[0][0]).mean() < 2


def test_one_frame_says_nothing_about_the_class():
    """The place of the shape in any frame is uniform, whatever the class."""
    for label in range(4):
        seen = np.concatenate([places(video)[::4] for video, own in MANY if own == label])
        quadrants = np.bincount((seen % 64 // 32) @ [2, 1], minlength=4) / len(seen)
        assert (np.abs(quadrants - 0.25) < 0.2).all()  # three deviations of what is drawn
    labels = np.bincount([label for _, label in MANY], minlength=4)
    assert (labels > 30).all()


def test_moving_shapes_are_a_data_set_like_others():
    inputs = small("", name="moving_shapes", num_classes=4, short_side=(64, 64))
    inputs.check()
    assert len(inputs.open("val")) == moving_shapes.COUNTS["val"]
    with pytest.raises(UserError, match="moving_shapes has no files"):
        small(pathlib.Path("here"), name="moving_shapes", num_classes=4).open("val")
