"""Every run sees the same batches, whatever reads them, and nothing grows."""

import gc
import os
import pathlib
import resource
import signal
import subprocess
import time

import numpy as np
import pytest
import synthetic_trees

from configs import common
from data import prepare
from nonlocal_jax import benchmark
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import loader, photometric, sources, transforms, watchdog


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    synthetic_trees.camvid(root, train=11, size=(45, 60))
    return root


def small_config(root, **data):
    config = common.base()
    config.model.num_classes = 11
    config.data_dir = str(root)
    config.batch_size = 4
    config.data.update(
        {"name": "camvid", "scale": (60, 45), "crop_size": (32, 48), "num_threads": 2, **data}
    )
    return config


def take(count, config, **options):
    batches = loader.train_batches(config, **options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for key in ("image", "label", "size"):
            np.testing.assert_array_equal(a[key], b[key])


def test_a_batch(camvid):
    (batch,) = take(1, small_config(camvid))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((4, 32, 48, 3), "uint8"),
        "label": ((4, 32, 48), "uint8"),
        "size": ((4, 2), "int32"),
    }
    assert np.isin(batch["label"], [*range(11), 255]).all()
    for label, (height, width) in zip(batch["label"], batch["size"], strict=True):
        assert (label[height:] == 255).all() and (label[:, width:] == 255).all()


def test_batches_differ_within_and_between_epochs_and_seeds(camvid):
    config = small_config(camvid)
    images = np.concatenate([batch["image"] for batch in take(8, config)])
    assert len({image.tobytes() for image in images}) == len(images)
    config.seed = 1
    assert not np.array_equal(take(1, config)[0]["image"], images[:4])


def test_every_epoch_holds_every_image_once(camvid):
    config = small_config(camvid)
    source = loader.open_source(config, "train")
    seen = []

    class Noting:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            seen.append(index)
            return source[index]

    examples = loader.train_examples(config, Noting())
    for index in range(3 * len(source)):
        examples[index]
    epochs = np.array(seen).reshape(3, len(source))
    assert (np.sort(epochs, axis=1) == np.arange(len(source))).all()
    assert not (epochs[0] == epochs[1]).all()


@pytest.mark.parametrize("threads", [1, 4])
def test_the_number_of_threads_changes_nothing(camvid, threads):
    expected = take(6, small_config(camvid))
    assert_same(take(6, small_config(camvid, num_threads=threads)), expected)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_nothing(camvid, workers):
    expected = take(6, small_config(camvid))
    assert_same(take(6, small_config(camvid, num_workers=workers)), expected)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(camvid, hosts):
    config = small_config(camvid)
    shares = [take(5, config, rows=rows) for rows in np.split(np.arange(4), hosts)]
    together = [
        {key: np.concatenate([share[key] for share in step]) for key in step[0]}
        for step in zip(*shares, strict=True)
    ]
    assert_same(together, take(5, config))


@pytest.mark.parametrize("start", [1, 3, 1000])
def test_resuming_at_any_step(camvid, start):
    config = small_config(camvid)
    if start < 1000:
        expected = take(start + 2, config)[start:]
    else:  # far into the run, on another number of hosts
        halves = [take(2, config, start_step=start, rows=rows) for rows in ([0, 1], [2, 3])]
        expected = [
            {key: np.concatenate([a[key], b[key]]) for key in a}
            for a, b in zip(*halves, strict=True)
        ]
    assert_same(take(2, config, start_step=start), expected)


def test_prepared_and_raw_give_the_same_batches(camvid, tmp_path):
    prepare.prepare("camvid", camvid, tmp_path, allow_incomplete=True)
    raw = take(3, small_config(camvid, source="folder"))
    for workers in (0, 1):
        config = small_config(tmp_path, source="array_record", num_workers=workers)
        assert_same(take(3, config), raw)


def test_a_host_may_make_any_rows(camvid):
    config = small_config(camvid)
    some, whole = take(2, config, start_step=1, rows=[0, 3]), take(2, config, start_step=1)
    assert_same(some, [{key: value[[0, 3]] for key, value in batch.items()} for batch in whole])


def test_check_finds_what_training_would(camvid, tmp_path):
    loader.check(small_config(camvid))
    config = small_config(camvid)
    config.model.num_classes = 19
    with pytest.raises(UserError, match="camvid has 11 classes"):
        loader.check(config)
    with pytest.raises(UserError, match="it is raise or skip"):
        loader.check(small_config(camvid, on_bad_example="ignore"))
    with pytest.raises(UserError, match=r"python -m data\.prepare camvid"):
        loader.check(small_config(tmp_path))


def test_a_folder_of_ones_own(camvid, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).symlink_to(camvid / kind)
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(5)))
    config = small_config(tmp_path, name="folder", reduce_zero_label=True)
    config.model.num_classes = 5
    config.data.label_map.update({str(value): 5 for value in range(5, 11)})
    loader.check(config)
    (batch,) = take(1, config)
    assert np.isin(batch["label"], [*range(5), 255]).all()


def test_options_become_transforms_in_order(camvid):
    config = small_config(camvid)
    assert [type(t) for t in loader.augmentations(config)] == [
        transforms.RandomResizedCrop,
        transforms.RandomFlip,
        photometric.PhotometricDistortion,
    ]
    config.data.update(
        {"vertical_flip_probability": 0.5, "rotate_probability": 1.0, "cutout_probability": 1.0}
    )
    assert [type(t).__name__ for t in loader.augmentations(config)] == [
        "RandomResizedCrop",
        "RandomFlip",
        "RandomFlip",
        "RandomRotate",
        "PhotometricDistortion",
        "RandomCutout",
    ]
    take(2, config)


# --- Bad data and bad workers ---------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_ends_the_run_or_is_skipped(tmp_path, workers):
    synthetic_trees.camvid(tmp_path, train=5, size=(45, 60))
    bad = sorted((tmp_path / "images" / "train").iterdir())[2]
    bad.write_bytes(b"no image")
    config = small_config(tmp_path, num_workers=workers)
    with pytest.raises(UserError, match=str(bad)):
        take(10, config)
    config.data.on_bad_example = "skip"
    skipping = take(4, config)
    assert_same(skipping, take(4, small_config(tmp_path, on_bad_example="skip")))


def children():
    listed = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "spawn_main"], capture_output=True, text=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def test_a_worker_that_dies_is_an_error(camvid):
    others = children()
    batches = loader.train_batches(small_config(camvid, num_workers=2))
    next(batches)
    victim = next(pid for pid in children() if pid not in others)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(UserError, match="worker died"):
        for _ in range(100):
            next(batches)


def test_workers_end_with_the_iterator(camvid):
    others = children()
    batches = loader.train_batches(small_config(camvid, num_workers=2))
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
    jpeg = loader.open_source(small_config(camvid), "train")
    assert loader.default_workers(jpeg, cores=16) == 0
    synthetic_trees.cityscapes(tmp_path)
    png = loader.open_source(small_config(tmp_path, name="cityscapes"), "train")
    assert [loader.default_workers(png, cores) for cores in (1, 2, 4, 16)] == [0, 0, 3, 15]


# --- Memory ---------------------------------------------------------------------------------------


class Blank:
    """A source of as many equal tiny examples as one likes."""

    def __init__(self, length):
        self._length = length
        self._example = sources.Example(
            np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3),
            np.arange(256, dtype=np.uint8).reshape(16, 16) % 3,
            "blank",
        )

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        assert 0 <= index < self._length
        return self._example


def resident():
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_a_million_examples_cost_no_more_than_a_thousand(monkeypatch):
    config = small_config("", crop_size=(16, 16), scale=(16, 16))
    growth = []
    for length in (1000, 1000, 1_000_000):  # the first one pays for what is loaded once
        before = resident()
        monkeypatch.setattr(loader, "open_source", lambda *_, n=length: Blank(n))
        take(20, config)
        growth.append(resident() - before)
    assert growth[2] < growth[1] + 4, growth  # MiB; a list of a million numbers has 8 at least


def test_memory_stays_flat_over_two_thousand_batches(monkeypatch):
    monkeypatch.setattr(loader, "open_source", lambda *_: Blank(50))
    config = small_config("", crop_size=(16, 16), scale=(16, 16))
    batches = loader.train_batches(config)
    for _ in range(300):
        next(batches)
    before = resident()
    for _ in range(2000):
        next(batches)
    assert resident() - before < 6  # MiB: a batch is 4 KiB, and 2000 of them 8 MiB
    batches.close()


def test_the_benchmark_times_every_stage(camvid):
    lines = benchmark.input_report(small_config(camvid), samples=3).splitlines()
    stages = [line[:24].strip() for line in lines[1:-1]]
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
