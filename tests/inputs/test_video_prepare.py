"""`prepare kinetics`: the lists and files are verified, and the records give the same clips."""

import numpy as np
import pytest
import videos

from nonlocal_jax.config.video import VideoData
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs.preparation.prepare import prepare
from nonlocal_jax.inputs.video.loader import VideoInputs

CLASSES = ("abseiling", "air drumming", "zumba")
LABELS = (0, 1, 399)


@pytest.fixture
def raw(tmp_path):
    videos.tree(tmp_path / "raw", CLASSES, train=2)
    return tmp_path / "raw"


def inputs(folder, **data):
    usual = {"frames": 4, "frame_stride": 2, "short_side": (40, 48), "crop_size": 32}
    data = VideoData(name="kinetics", num_threads=2, **{**usual, **data})
    return VideoInputs(data=data, data_dir=str(folder), num_classes=400, batch_size=3, seed=2)


def clips(given, count=6):
    examples = given.train_examples()
    return [examples[index] for index in range(count)]


def test_prepared_folders_give_the_same_clips(raw, tmp_path):
    folder, counts, is_new = prepare("kinetics", raw, tmp_path / "out", allow_incomplete=True)
    assert is_new and counts == {"train": 6, "val": 3}
    prepared, listed = inputs(tmp_path / "out"), inputs(raw)
    for ours, theirs in zip(clips(prepared), clips(listed), strict=True):
        np.testing.assert_array_equal(ours["clip"], theirs["clip"])
        assert ours["label"] == theirs["label"]
    stored, files = prepared.encoded("train"), listed.encoded("train")
    assert [stored[i].label for i in (0, 2, 4)] == list(LABELS)
    for index in range(6):
        assert stored[index].content == files[index].content.read_bytes()
        assert stored.name(index) == files.name(index)
    report = (folder / "report.txt").read_text()
    assert report.splitlines()[1].split()[:5] == ["train", "6", "234643", "3", "8..13"]
    again = prepare("kinetics", raw, tmp_path / "again", allow_incomplete=True).folder
    for record in folder.glob("*array_record*"):
        assert (again / record.name).read_bytes() == record.read_bytes()


def test_lists_keep_their_order(raw, tmp_path):
    names = sorted(path.relative_to(raw) for path in raw.rglob("*.mp4"))[::-1]
    for split in ("train", "val"):
        own = [name for name in names if name.parts[0] == split]
        lines = [f"{name} {CLASSES.index(name.parts[1].replace('_', ' '))}" for name in own]
        (raw / f"{split}.txt").write_text("\n".join(lines))
    prepare("kinetics", raw, tmp_path / "out", allow_incomplete=True)
    stored = inputs(tmp_path / "out").encoded("train")
    assert [stored.name(i) for i in range(6)] == [str(n) for n in names if n.parts[0] == "train"]


def test_a_bad_video_stops_it_or_is_left_out_and_named(raw, tmp_path):
    bad = raw / "train" / "zumba" / "1.mp4"
    bad.write_bytes(b"no video")
    lists = {"train": ["train/zumba/0.mp4 399", "train/zumba/gone.mp4 399", f"{bad} 399"]}
    (raw / "train.txt").write_text("\n".join(lists["train"]))
    with pytest.raises(UserError, match=r"1 of the 3 videos of train are missing.*gone\.mp4"):
        prepare("kinetics", raw, tmp_path / "out")
    folder, counts, _ = prepare("kinetics", raw, tmp_path / "out", allow_incomplete=True)
    assert counts == {"train": 1, "val": 3}
    report = (folder / "report.txt").read_text()
    assert "2 videos of train were left out" in report
    assert "gone.mp4 is missing" in report and f"{bad} cannot be decoded" in report


def test_other_counts_than_published_are_refused(raw, tmp_path):
    with pytest.raises(UserError, match="has 6 videos in train; published are 234643"):
        prepare("kinetics", raw, tmp_path / "out")
    with pytest.raises(UserError, match=r"holds nothing of kinetics.*github\.com/cvdfoundation"):
        prepare("kinetics", tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UserError, match="cannot be downloaded by a program"):
        prepare("kinetics", raw, tmp_path / "out", fetch=lambda url, folder: folder)
    assert not list((tmp_path / "out").glob("kinetics/[0-9i]*"))


def test_a_damaged_record_says_so(raw, tmp_path):
    folder = prepare("kinetics", raw, tmp_path / "out", allow_incomplete=True).folder
    (record,) = folder.glob("*train*array_record*")
    content = bytearray(record.read_bytes())
    content[1000:3000] = bytes(2000)
    record.write_bytes(content)
    with pytest.raises(UserError, match=r"Record .* is damaged|cannot be decoded|cannot be read"):
        stored = inputs(tmp_path / "out")
        clips(stored)
