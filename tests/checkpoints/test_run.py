"""The checkpoints of a run: the latest and the best are kept, whatever happens to the process."""

import asyncio
import gc
import hashlib
import json
import logging
import resource
import shutil
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from saved import (
    TRAINING,
    arrays,
    contents,
    cut,
    flip,
    largest,
    names,
    opened,
    train,
)

from nonlocal_jax.checkpoints import folder, locate, model, run
from nonlocal_jax.errors import UserError


def test_the_latest_and_the_best_are_kept(tmp_path):
    train(tmp_path, range(1, 7), keep=2, mious={2: 0.9, 4: 0.3, 6: 0.4})
    assert names(tmp_path) == [2, 5, 6]
    train(tmp_path, [7, 8], keep=2, mious={8: 0.9})  # the later of equally good ones
    assert names(tmp_path) == [7, 8]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_score_that_comes_later_counts(tmp_path):
    train(tmp_path, range(1, 4), keep=3, mious={1: 0.5})
    steps = tmp_path / "checkpoints"
    with opened(tmp_path, keep=1) as saved:
        assert not folder.is_scored(steps / "2")
        saved.score(2, 0.7)
        assert folder.is_scored(steps / "2")
    assert names(tmp_path) == [2, 3]
    assert run.prepare(steps) == 3
    assert model.load_model(steps / "2")


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    train(tmp_path, range(1, 5), keep=1, mious={1: float("nan"), 2: 0.1})
    assert names(tmp_path) == [2, 4]
    assert locate.find(tmp_path).step == 2


def test_training_goes_on_from_the_newest(tmp_path):
    train(tmp_path, [3, 8])
    assert run.prepare(tmp_path / "checkpoints") == 8
    with opened(tmp_path) as saved:
        variables, optimizer = saved.restore(8, arrays(), {"m": arrays()})
    for name, value in arrays(8).items():
        np.testing.assert_array_equal(variables[name], value)
        np.testing.assert_array_equal(optimizer["m"][name], arrays(-8)[name])


def test_arrays_may_change_once_save_has_returned(tmp_path):
    values = {"x": jnp.arange(1 << 20, dtype=jnp.float32)}
    with opened(tmp_path) as saved:
        saved.save(1, values, {"m": values}, TRAINING)
        values["x"].delete()  # as donating does
    np.testing.assert_array_equal(model.load_model(tmp_path)[0]["x"], np.arange(1 << 20))


def test_a_checkpoint_with_other_arrays_is_refused(tmp_path):
    train(tmp_path, [3])
    with opened(tmp_path) as saved, pytest.raises(UserError, match="does not hold what this conf"):
        saved.restore(3, {**arrays(), "more": jnp.zeros(3)}, {"m": arrays()})


def test_nothing_of_the_process_is_changed(tmp_path):
    policy, filters = asyncio.get_event_loop_policy(), list(logging.getLogger("absl").filters)
    hooks = sys.excepthook, sys.unraisablehook
    train(tmp_path, [3])
    assert asyncio.get_event_loop_policy() is policy
    assert logging.getLogger("absl").filters == filters
    assert (sys.excepthook, sys.unraisablehook) == hooks


# --- Damage ---------------------------------------------------------------------------------------

DAMAGES = {
    "an array flipped": lambda step: flip(largest(step / "model")),
    "an array of the optimiser flipped": lambda step: flip(largest(step / "optimizer")),
    "an array cut": lambda step: cut(largest(step / "model"), 10),
    "an array gone": lambda step: largest(step / "model").unlink(),
    "metadata flipped": lambda step: flip(step / folder.METADATA),
    "metadata gone": lambda step: shutil.rmtree(step / "metadata"),
    "orbax's own flipped": lambda step: flip(step / "_CHECKPOINT_METADATA"),
    "digests flipped": lambda step: flip(step / "digests.json"),
    "digests cut": lambda step: cut(step / "digests.json", 40),
    "digests empty": lambda step: (step / "digests.json").write_text("{}"),
    "digests no object": lambda step: (step / "digests.json").write_text("[1]"),
    "digests no text": lambda step: (step / "digests.json").write_bytes(b"\xff\x00"),
    "digests gone": lambda step: (step / "digests.json").unlink(),
    "nothing left": lambda step: [shutil.rmtree(p) for p in step.iterdir() if p.is_dir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_the_step_before_is_taken(tmp_path, damage):
    train(tmp_path, [3, 8])
    steps = tmp_path / "checkpoints"
    DAMAGES[damage](steps / "8")
    left = contents(steps / "8")
    assert locate.find(tmp_path).step == 3
    assert run.prepare(steps) == 3
    aside = contents(steps / "8.damaged")
    assert list(aside.values()) == list(left.values())
    with opened(tmp_path) as saved:
        variables, _ = saved.restore(3, arrays(), {"m": arrays()})
        np.testing.assert_array_equal(
            variables["decode_head/classifier/bias"], arrays(3)["decode_head/classifier/bias"]
        )
        saved.save(8, arrays(8), {"m": arrays(-8)}, TRAINING)
    assert names(tmp_path) == [3, 8]


def test_a_flipped_byte_anywhere_is_found_or_changes_nothing(tmp_path):
    train(tmp_path, [3, 8], mious={3: 0.5, 8: 0.25})
    before, _ = model.load_model(tmp_path, 8)
    step = tmp_path / "checkpoints" / "8"
    harmless = set()
    for file, content in contents(step).items():
        for place in {0, len(content) // 3, len(content) - 1}:
            flipped = bytearray(content)
            flipped[place] ^= 1
            file.write_bytes(flipped)
            if folder.damage(step) is None and folder.is_scored(step):
                harmless.add(file.name)
                after, _ = model.load_model(step)
                for name, value in before.items():
                    np.testing.assert_array_equal(after[name], value)
                assert folder.score(step) == 0.25
            file.write_bytes(content)
    assert harmless <= {"commit_success.txt", "_CHECKPOINT_METADATA"}
    assert folder.damage(step) is None


def test_when_none_is_whole_nothing_is_touched(tmp_path):
    train(tmp_path, [3, 8])
    for step in (3, 8):
        flip(largest(tmp_path / "checkpoints" / str(step) / "model"))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"No checkpoint in .* is whole:\n +8: .*\n +3: "):
        run.prepare(tmp_path / "checkpoints")
    assert contents(tmp_path) == before


def test_a_step_by_another_name_is_not_taken_for_it(tmp_path):
    train(tmp_path, [3, 8])
    steps = tmp_path / "checkpoints"
    (steps / "8").rename(steps / "9")
    with pytest.raises(UserError, match="it holds step 8: its folder was renamed"):
        model.load_model(steps / "9")
    assert locate.find(tmp_path).step == 3
    assert run.prepare(steps) == 3 and (steps / "9.damaged").is_dir()
    (steps / "9.damaged").rename(tmp_path / "kept")  # a copy elsewhere has any name
    assert model.load_model(tmp_path / "kept")[1].step == 8


@pytest.mark.parametrize("place", ["digit", "seal", "other checkpoint's", "no object"])
def test_a_damaged_score_is_told_and_its_checkpoint_kept(tmp_path, place, capsys):
    train(tmp_path, range(1, 4), keep=3, mious={1: 0.75, 2: 0.25})
    steps = tmp_path / "checkpoints"
    file = steps / "1" / "score.json"
    text = file.read_text()
    contents = {
        "digit": text.replace("0.75", "0.15"),
        "seal": text.replace('"seal"', '"sealed"'),
        "other checkpoint's": (steps / "2" / "score.json").read_text(),
        "no object": "[]",
    }
    file.write_text(contents[place])
    with pytest.raises(UserError, match=r"1/score\.json, or .* is damaged"):
        locate.find(tmp_path)
    assert locate.find(tmp_path, "latest").step == 3 and locate.find(tmp_path, 1).step == 1
    train(tmp_path, range(4, 7), keep=1)
    assert names(tmp_path) == [1, 2, 6]
    with opened(tmp_path, keep=1) as saved:
        saved.score(1, 0.75)
    assert names(tmp_path) == [1, 6] and locate.find(tmp_path).step == 1


def test_a_score_is_named_after_its_metric_and_old_files_are_read(tmp_path):
    train(tmp_path, [1, 2], mious={1: 0.25})
    steps = tmp_path / "checkpoints"
    file = steps / "2" / "score.json"
    with opened(tmp_path) as saved:
        saved.score(2, 0.5, "top1")
    assert json.loads(file.read_text())["top1"] == 0.5
    assert folder.score(steps / "2") == 0.5 and locate.find(tmp_path).step == 2
    # Every version has written this for mIoU; older ones wrote it for top-1, too.
    digest = hashlib.sha256((steps / "1" / "digests.json").read_bytes()).hexdigest()
    seal = hashlib.sha256(f"0.75 {digest}".encode()).hexdigest()
    (steps / "1" / "score.json").write_text(json.dumps({"miou": 0.75, "seal": seal}))
    assert folder.score(steps / "1") == 0.75 and locate.find(tmp_path).step == 1
    file.write_text(file.read_text().replace("top1", "top2"))
    with pytest.raises(folder.DamagedScoreError):
        folder.score(steps / "2")


# --- Kills ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [".9.unfinished", ".3.removed", ".9.unfinished.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp",
     ".removed/3"],
)  # fmt: skip
def test_what_a_killed_process_left_is_no_checkpoint_and_goes(tmp_path, name):
    train(tmp_path, [3, 8])
    steps = tmp_path / "checkpoints"
    shutil.copytree(steps / "8", steps / name)
    assert locate.find(tmp_path).step == 8
    assert run.prepare(steps) == 8
    assert names(tmp_path) == [3, 8] and len(list(steps.iterdir())) == 2


def test_a_killed_first_save_begins_anew(tmp_path):
    (tmp_path / "1.orbax-checkpoint-tmp" / "model").mkdir(parents=True)
    assert run.prepare(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


SAVING = """
import os, signal, sys, threading, time
sys.path.insert(0, "tests/support")
from saved import *
with opened(pathlib.Path(sys.argv[1]), keep=1) as saved:
    print("begun", flush=True)
    threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
    for step in range(2, 1000):
        saved.save(step, arrays(step), {"m": arrays(-step)}, TRAINING)
        saved.score(step, step / 1000)
"""


def test_killed_while_saving_and_removing_one_is_whole(tmp_path):
    """Each save removes the only checkpoint there was."""
    train(tmp_path, [1], keep=1, mious={1: 0.0})
    for delay in (0.05, 0.21, 0.33, 0.47):
        command = [sys.executable, "-c", SAVING, tmp_path, str(delay)]
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
        for path in (tmp_path / "checkpoints").iterdir():
            if path.name.isdigit():
                assert folder.damage(path) is None, path
        step = run.prepare(tmp_path / "checkpoints")
        assert step is not None
        bias = model.load_model(tmp_path, step)[0]["decode_head/classifier/bias"]
        np.testing.assert_array_equal(bias, arrays(step)["decode_head/classifier/bias"])
    assert step > 1


# --- Disks ----------------------------------------------------------------------------------------


def test_a_write_that_fails_in_the_background_is_told_and_harms_nothing(tmp_path, capfd):
    train(tmp_path, [3])
    before = contents(tmp_path)
    saved = opened(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # of a file, in bytes
    try:
        with pytest.raises(UserError, match=r"Cannot write the checkpoint .*/8: .*[Tt]oo large"):
            saved.save(8, arrays(8), {"m": arrays(-8)}, TRAINING)
            while True:
                saved.check()
                time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    saved.close()
    kept = [one for one in gc.get_objects() if type(one).__name__ == "_AsyncManager"]
    assert kept and not any(one._thread for one in kept), "their destructors could hang"
    run.prepare(tmp_path / "checkpoints")  # threads that still wrote may have left files
    assert contents(tmp_path) == before
    assert "Traceback" not in capfd.readouterr().err
    train(tmp_path, [8])
    assert names(tmp_path) == [3, 8]


FAILING = """
import resource, sys, time
sys.path.insert(0, "tests/support")
from saved import *
from nonlocal_jax.errors import UserError
many = {f"{i}/kernel": jnp.ones((64, 64)) * i for i in range(100)}
saved = opened(pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    saved.save(1, many, {"m": many}, TRAINING)
    saved.wait()
except UserError:
    print("told")
saved.close()
time.sleep(0.5)
"""


def test_arrays_that_fail_late_print_no_stacks(tmp_path):
    command = [sys.executable, "-c", FAILING, tmp_path]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "told\n")
    assert "Traceback" not in done.stderr and "Event loop" not in done.stderr, done.stderr
    assert run.prepare(tmp_path / "checkpoints") is None
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot use .* for checkpoints"):
        run.prepare(tmp_path / "file")


def test_reading_while_a_run_saves_and_removes(tmp_path):
    train(tmp_path, [1], keep=1, mious={1: 0.0})
    done, failures = threading.Event(), []

    def read():
        while not done.is_set():
            try:
                variables, metadata = model.load_model(tmp_path)
                bias = arrays(metadata.step)["decode_head/classifier/bias"]
                np.testing.assert_array_equal(variables["decode_head/classifier/bias"], bias)
            except BaseException as error:
                failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    with opened(tmp_path, keep=1) as saved:
        for step in range(2, 12):
            saved.save(step, arrays(step), {"m": arrays(-step)}, TRAINING)
            saved.score(step, step / 100)
    done.set()
    thread.join()
    assert not failures, failures


def test_a_folder_that_is_still_written_to_is_removed(tmp_path, monkeypatch):
    leftover, plain, times = tmp_path / "4.unfinished", shutil.rmtree, []

    def rmtree(path, **options):
        plain(path, **options)
        times.append(path)
        if len(times) == 1:
            path.mkdir()
            (path / "late").touch()

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    leftover.mkdir()
    folder.remove(leftover)
    assert len(times) == 2 and not leftover.exists()
