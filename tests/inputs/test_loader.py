"""Every run sees the same batches, whatever reads them, and nothing grows."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import synthetic_trees
from loading import small, take
from PIL import Image

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import cores, loader, photometric, transforms, watchdog
from nonlocal_jax.inputs.preparation.prepare import prepare

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    synthetic_trees.camvid(root, train=11, size=(45, 60))
    return root


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for key in ("image", "label", "size"):
            np.testing.assert_array_equal(a[key], b[key])


def test_a_batch(camvid):
    (batch,) = take(1, small(camvid))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((4, 32, 48, 3), "uint8"),
        "label": ((4, 32, 48), "uint8"),
        "size": ((4, 2), "int32"),
    }
    assert np.isin(batch["label"], [*range(11), 255]).all()
    for label, (height, width) in zip(batch["label"], batch["size"], strict=True):
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()


def test_batches_differ_within_and_between_epochs_and_seeds(camvid):
    inputs = small(camvid)
    images = np.concatenate([batch["image"] for batch in take(8, inputs)])
    assert len({image.tobytes() for image in images}) == len(images)
    assert not np.array_equal(take(1, small(camvid, seed=1))[0]["image"], images[:4])


def test_every_epoch_holds_every_image_once(camvid):
    inputs = small(camvid)
    source = inputs.open("train")
    seen = []

    class Noting:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            seen.append(index)
            return source[index]

        name, image_size = source.name, source.image_size

    examples = inputs.train_examples(Noting())
    for index in range(3 * len(source)):
        examples[index]
    epochs = np.array(seen).reshape(3, len(source))
    assert (np.sort(epochs, axis=1) == np.arange(len(source))).all()
    assert not (epochs[0] == epochs[1]).all()


@pytest.mark.parametrize("threads", [1, 4])
def test_the_number_of_threads_changes_nothing(camvid, threads):
    expected = take(6, small(camvid))
    assert_same(take(6, small(camvid, num_threads=threads)), expected)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(camvid, workers):
    expected = take(6, small(camvid))
    assert_same(take(6, small(camvid, num_workers=workers)), expected)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(camvid, hosts):
    inputs = small(camvid)
    shares = [take(5, inputs, rows=rows.tolist()) for rows in np.split(np.arange(4), hosts)]
    together = [
        {key: np.concatenate([share[key] for share in step]) for key in step[0]}
        for step in zip(*shares, strict=True)
    ]
    assert_same(together, take(5, inputs))


@pytest.mark.parametrize("start", [1, 3, 1000])
def test_resuming_at_any_step(camvid, start):
    inputs = small(camvid)
    if start < 1000:
        expected = take(start + 2, inputs)[start:]
    else:  # far into the run, on another number of hosts
        halves = [take(2, inputs, start_step=start, rows=rows) for rows in ([0, 1], [2, 3])]
        expected = [
            {key: np.concatenate([a[key], b[key]]) for key in a}
            for a, b in zip(*halves, strict=True)
        ]
    assert_same(take(2, inputs, start_step=start), expected)


def test_prepared_and_raw_give_the_same_batches(camvid, tmp_path):
    prepare("camvid", camvid, tmp_path, allow_incomplete=True)
    raw = take(3, small(camvid, source="folder"))
    for workers in (0, 1):
        inputs = small(tmp_path, source="array_record", num_workers=workers)
        assert_same(take(3, inputs), raw)


def test_a_batch_of_one(camvid):
    inputs = dataclasses.replace(small(camvid), batch_size=1)
    images = np.concatenate([batch["image"] for batch in take(4, inputs)])
    np.testing.assert_array_equal(images, take(1, small(camvid))[0]["image"])


def test_a_host_may_make_any_rows(camvid):
    inputs = small(camvid)
    some, whole = take(2, inputs, start_step=1, rows=[0, 3]), take(2, inputs, start_step=1)
    assert_same(some, [{key: value[[0, 3]] for key, value in batch.items()} for batch in whole])


def test_check_finds_what_training_would(camvid, tmp_path):
    small(camvid).check()
    with pytest.raises(UserError, match="camvid has 11 classes"):
        small(camvid, num_classes=19).check()
    with pytest.raises(UserError, match=r"nonlocal-jax prepare camvid"):
        small(tmp_path).check()


def test_a_folder_of_ones_own(camvid, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).symlink_to(camvid / kind)
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(5)))
    mapped = dict.fromkeys(range(5, 11), 5)
    settings = {"name": "folder", "reduce_zero_label": True, "label_map": mapped}
    inputs = small(tmp_path, num_classes=5, **settings)
    inputs.check()
    (batch,) = take(1, inputs)
    assert np.isin(batch["label"], [*range(5), 255]).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_check_decodes_some_of_either_split(camvid, tmp_path, split):
    for kind in ("images", "labels"):
        shutil.copytree(camvid / kind, tmp_path / kind)
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(11)))
    for mask in (tmp_path / "labels" / split).rglob("*.png"):
        Image.fromarray(np.full(np.asarray(Image.open(mask)).shape, 40, np.uint8)).save(mask)
    with pytest.raises(UserError, match=rf"labels/{split}/.* label 40, and there are 11 classes"):
        small(tmp_path, name="folder").check()
    small(tmp_path, name="folder", on_bad_example="skip").check()


def test_options_become_transforms_in_order(camvid):
    assert [type(t) for t in small(camvid).augmentations()] == [
        transforms.RandomResizedCrop,
        transforms.RandomFlip,
        photometric.PhotometricDistortion,
    ]
    every = small(
        camvid, vertical_flip_probability=0.5, rotate_probability=1.0, cutout_probability=1.0
    )
    assert [type(t).__name__ for t in every.augmentations()] == [
        "RandomResizedCrop",
        "RandomFlip",
        "RandomFlip",
        "RandomRotate",
        "PhotometricDistortion",
        "RandomCutout",
    ]
    take(2, every)


# --- Bad data and bad workers ---------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_ends_the_run_or_is_skipped(tmp_path, workers):
    synthetic_trees.camvid(tmp_path, train=5, size=(45, 60))
    bad = sorted((tmp_path / "images" / "train").iterdir())[2]
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=str(bad)):
        take(10, small(tmp_path, num_workers=workers))
    skipping = take(4, small(tmp_path, num_workers=workers, on_bad_example="skip"))
    assert_same(skipping, take(4, small(tmp_path, on_bad_example="skip")))


def children():
    listed = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "spawn_main"], capture_output=True, text=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def test_a_worker_that_dies_is_an_error(camvid):
    others = children()
    batches = small(camvid, num_workers=2).train_batches()
    next(batches)
    victim = next(pid for pid in children() if pid not in others)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(UserError, match="worker died"):
        for _ in range(100):
            next(batches)


def test_workers_end_with_the_iterator(camvid):
    others = children()
    batches = small(camvid, num_workers=2).train_batches()
    next(batches)
    assert len(children()) == len(others) + 2
    batches.close()
    deadline = time.monotonic() + 20
    while len(children()) > len(others) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children() == others


def test_silence_is_an_error():
    def hanging():
        yield 1
        time.sleep(3)
        yield 2

    items = watchdog.guarded(hanging(), buffered=1, patience=0.2)
    assert next(items) == 1
    with pytest.raises(UserError, match="hangs"):
        next(items)


def test_the_watchdog_passes_items_and_errors_on():
    assert list(watchdog.guarded(range(7), buffered=2)) == list(range(7))

    def failing():
        yield 1
        try:
            raise UserError("the file")
        except UserError as error:
            raise RuntimeError("in a worker") from error

    with pytest.raises(UserError, match="the file"):
        list(watchdog.guarded(failing(), buffered=2))

    class Broken:
        def __iter__(self):
            raise UserError("before the first item")

    with pytest.raises(UserError, match="before the first item"):
        list(watchdog.guarded(Broken(), buffered=2))
    with pytest.raises(ZeroDivisionError):
        list(watchdog.guarded((1 // n for n in (1, 0)), buffered=2))


def test_the_watchdog_runs_only_a_little_ahead():
    made = []

    def counting():
        for number in range(100):
            made.append(number)
            yield number

    items = watchdog.guarded(counting(), buffered=2)
    next(items)
    time.sleep(0.3)
    assert len(made) <= 4
    items.close()
    time.sleep(0.3)
    assert len(made) <= 5


def test_png_images_take_processes_where_there_are_cores(camvid, tmp_path):
    jpeg = small(camvid).open("train")
    assert loader.default_workers(jpeg, cores=16) == 0
    synthetic_trees.cityscapes(tmp_path)
    png = small(tmp_path, name="cityscapes", num_classes=19).open("train")
    assert [loader.default_workers(png, cores) for cores in (1, 2, 4, 16)] == [0, 0, 3, 15]


def test_the_benchmark_times_every_stage(camvid):
    from nonlocal_jax.performance import measure

    settings = {"data.scale": (60, 45), "data.crop_size": (32, 48), "data.num_threads": 2}
    config = files.load("camvid", data_dir=str(camvid), batch_size=4, **settings)
    rates = measure.input_rates("camvid", config, samples=3)
    lines = rates.text().splitlines()
    stages = [line[:24].strip() for line in lines[1:-1]]
    assert [*rates.stages, "together"] == stages
    assert stages == [
        "read",
        "decode image",
        "decode mask",
        "RandomResizedCrop",
        "RandomFlip",
        "PhotometricDistortion",
        "Pad",
        "together",
    ]
    assert "images/s" in lines[-1]


# --- The machine ----------------------------------------------------------------------------------


def test_cores_are_those_that_this_process_may_use(monkeypatch, tmp_path):
    machine = len(os.sched_getaffinity(0))
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    assert cores.usable() == machine
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for quota, expected in [("max 100000", 64), ("150000 100000", 2), ("6400000 100000", 64)]:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
        assert cores.usable() == expected
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in [("-1", 64), ("50000", 1), ("300000", 3)]:
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert cores.usable() == expected


def test_opencv_has_threads_of_its_own_until_examples_are_made_in_parallel(camvid):
    code = """
import sys
import cv2

cv2.setNumThreads(2)
from absl import flags
from nonlocal_jax.config.schema import Data
from nonlocal_jax.inputs.loader import Inputs

flags.FLAGS.mark_as_parsed()
level = cv2.utils.logging.getLogLevel()
data = Data(name="camvid", scale=(60, 45), crop_size=(32, 48), num_workers=0)
inputs = Inputs(data=data, data_dir=sys.argv[1], num_classes=11)
inputs.train_examples()[0]
print(cv2.getNumThreads(), end=" ")
next(inputs.train_batches())
print(cv2.getNumThreads(), cv2.utils.logging.getLogLevel() == level)
"""
    command = [sys.executable, "-c", code, str(camvid)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "1", "True"]
