"""What goes wrong from outside ends in one message, and loses nothing that was there."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from test_checkpoints import arrays, names, opened, train
from test_distributed import run_two
from test_interruptions import make_data
from test_train import ONE_DEVICE, command, run, tiny

from nonlocal_jax.checkpoints import folder
from nonlocal_jax.checkpoints import training as checkpoints
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import loader, watchdog
from nonlocal_jax.inputs.sources import Example
from nonlocal_jax.training import loop as training
from nonlocal_jax.training import run_log, workdir
from nonlocal_jax.training.step_metrics import StepMetrics


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- A loss that is not finite --------------------------------------------------------------------


def scalars(loss, finite=True):
    return {"loss": jnp.float32(loss), "accuracy": jnp.float32(0.5), "finite": jnp.bool_(finite)}


def describe(step):
    return f"It is batch {step}."


def test_a_step_that_is_not_finite_is_named_one_step_later():
    steps = StepMetrics(0, describe)
    steps.add(1, scalars(1.0))
    steps.add(2, scalars(np.nan, finite=False))
    with pytest.raises(UserError, match=r"step 2 is not finite. It is batch 2\..*skip_nonf"):
        steps.add(3, scalars(1.0))


def test_so_many_steps_are_skipped_also_over_restarts(capsys):
    steps = StepMetrics(2, describe)
    steps.add(1, scalars(3.0))
    steps.add(2, scalars(np.inf, finite=False))
    steps.add(3, scalars(5.0))
    state = json.loads(json.dumps(steps.state()))
    assert "step 2 is not finite. It is batch 2. Skipped: 1 of 2" in capsys.readouterr().out
    assert steps.means()["loss"] == 4.0
    again = StepMetrics(2, describe, state)
    again.add(4, scalars(10.0))
    assert again.means()["loss"] == 6.0
    again.add(5, scalars(np.nan, finite=False))
    again.settle()
    again.add(6, scalars(np.nan, finite=False))
    with pytest.raises(UserError, match="step 6 is not finite"):
        again.settle()


class Numbers:
    """Stands for a split: each image is its example's number."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        label = np.full((64, 64), 255, np.uint8)
        return Example(np.full((64, 64, 3), index, np.uint8), label, str(index))


def test_the_examples_of_a_batch_are_known_by_index(monkeypatch):
    monkeypatch.setattr(loader, "open_source", lambda *_: Numbers())
    config = tiny(seed=3, batch_size=5)
    config.data.scale, config.data.crop_size = (64, 64), (64, 64)
    config.data.ratio_range, config.data.photometric_distortion = (1.0, 1.0), False
    batches = loader.train_batches(config)
    for step in range(1, 25):  # beyond two epochs
        held = next(batches)["image"][:, 5, 5, 0].tolist()
        assert loader.batch_indices(config, step) == held
        assert ", ".join(map(str, held)) in loader.describe_batch(config, step)


def test_a_run_skips_what_it_may_and_then_stops(tmp_path):
    code, out, err = run(
        tmp_path,
        "--config.optimizer.learning_rate=1e30",
        "--config.skip_nonfinite_steps=2",
        "--config.checkpoint_every=1",
    )
    assert code == 2 and "Traceback" not in err
    skipped = [
        int(line.split("step ")[1].split()[0]) for line in out.splitlines() if "of 2" in line
    ]
    assert len(skipped) == 2
    stopped = skipped[-1] + 1
    assert f"step {stopped} is not finite. Its batch holds the training examples " in err
    assert "config.skip_nonfinite_steps=3" in err
    variables, metadata = checkpoints.load_model(tmp_path)
    assert all(np.isfinite(value).all() for value in variables.values())
    assert metadata["recent"]["skipped"] == skipped[: len(metadata["recent"]["skipped"])]


# --- A full disk, a folder that can't be written --------------------------------------------------


def test_a_write_that_fails_in_the_background_is_told_and_leaves_nothing(tmp_path, capfd):
    train(tmp_path, [3])
    before = contents(tmp_path)
    saved = opened(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # of a file, in bytes
    try:
        with pytest.raises(UserError, match=r"Cannot write the checkpoint .*/8: .*[Tt]oo large"):
            saved.save(8, arrays(8), {"m": arrays(-8)}, {"kind": "training"})
            while True:
                saved.check()
                time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    saved.close()
    assert contents(tmp_path) == before
    assert "Traceback" not in capfd.readouterr().err
    train(tmp_path, [8])
    assert names(tmp_path) == [3, 8]


def test_a_full_disk_ends_a_run_and_leaves_a_checkpoint(tmp_path):
    own_mount = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=1200k tmpfs {tmp_path}"
    if subprocess.run([*own_mount, "sh", "-c", mount], check=False).returncode:
        pytest.skip("this user may not mount anything")
    script = f'{mount} && shift && "$@"; echo code $?; cp -r {tmp_path}/run/checkpoints $KEPT'
    kept = tmp_path.with_name("kept")
    done = subprocess.run(
        [*own_mount, "sh", "-c", script, "sh", "--", *command(tmp_path / "run")],
        cwd=REPOSITORY,
        env={**ONE_DEVICE, "KEPT": str(kept)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "code 2" in done.stdout, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("nonlocal_jax: ") == 1
    assert all(path.name.isdigit() for path in kept.iterdir())
    assert checkpoints.load_model(kept)


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = run_log.RunLog.__new__(run_log.RunLog)
    log._name, log._tensorboard = tmp_path / "metrics.jsonl", None
    log._file = log._name.open("a")
    with pytest.raises(UserError, match=r"Cannot write .*metrics.jsonl: No space left"):
        log.write(1, {"loss": 1.0})
    log.close()


def test_a_workdir_below_a_file_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(tmp_path / "file" / "run")
    assert code == 2 and "as the workdir" in err and "--workdir" in err and "Traceback" not in err
    with pytest.raises(UserError, match=r"Cannot use .* for checkpoints"):
        checkpoints.prepare(tmp_path / "file")


# --- A workdir that is damaged, or another's ------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00garbage", b'{"seed": 0'])
def test_a_damaged_config_is_told_and_left_alone(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n')
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"config.json is damaged .*--workdir"):
        workdir.claim(tmp_path, tiny(), {})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "model"])
def test_a_run_without_its_config_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"holds {name} but no config.json"):
        workdir.claim(tmp_path, tiny(), {})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_log_is_kept_beside_its_readable_lines(tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 2, "loss": 1}\n', b"\x00\xff\n", b"[]\n", b'{"step": 4, "miou": 1}\n']
    file.write_bytes(b"".join([*lines, b'{"step": 5}\n', b'{"step": 4, "lo']))
    run_log.RunLog(tmp_path, 4).close()
    assert file.read_bytes() == lines[0] + lines[3]
    assert b"\x00\xff\n" in (tmp_path / "metrics.damaged").read_bytes()
    assert "can't be read" in capsys.readouterr().out
    run_log.RunLog(tmp_path, 4, evaluated=False).close()
    assert file.read_bytes() == lines[0]


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = {
    "an array flipped": lambda step: flip(largest(step / "model")),
    "an array of the optimiser flipped": lambda step: flip(largest(step / "optimizer")),
    "an array cut": lambda step: os.truncate(largest(step / "model"), 10),
    "an array gone": lambda step: largest(step / "model").unlink(),
    "metadata flipped": lambda step: flip(step / folder.METADATA),
    "metadata gone": lambda step: shutil.rmtree(step / "metadata"),
    "orbax's own flipped": lambda step: flip(step / "_CHECKPOINT_METADATA"),
    "digests flipped": lambda step: flip(step / "digests.json"),
    "digests cut": lambda step: os.truncate(step / "digests.json", 40),
    "digests empty": lambda step: (step / "digests.json").write_text("{}"),
    "digests no object": lambda step: (step / "digests.json").write_text("[1]"),
    "digests no text": lambda step: (step / "digests.json").write_bytes(b"\xff\x00"),
    "digests gone": lambda step: (step / "digests.json").unlink(),
    "nothing left": lambda step: [shutil.rmtree(p) for p in step.iterdir() if p.is_dir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_the_step_before_is_taken(tmp_path, damage):
    train(tmp_path, [3, 8])
    folder = tmp_path / "checkpoints"
    DAMAGES[damage](folder / "8")
    left = contents(folder / "8")
    assert checkpoints.find(tmp_path).name == "3"
    assert checkpoints.prepare(folder) == 3
    aside = contents(folder / "8.damaged")
    assert list(aside.values()) == list(left.values())
    with opened(tmp_path) as saved:
        variables, _ = saved.restore(3, arrays(), {"m": arrays()})
    np.testing.assert_array_equal(variables["decode_head/classifier/bias"], [3.5, 2.0])
    DAMAGES[damage](folder / "3")
    with pytest.raises(UserError, match=r"No checkpoint in .* is whole:\n  3: .*\nRestore one"):
        checkpoints.prepare(folder)
    assert (folder / "3").is_dir()


def test_what_a_killed_process_leaves_is_no_checkpoint(tmp_path):
    train(tmp_path, [3, 8])
    folder = tmp_path / "checkpoints"
    for name in (".9.unfinished", ".9.unfinished.orbax-checkpoint-tmp", ".2.removed"):
        shutil.copytree(folder / "8", folder / name)
    assert checkpoints.find(tmp_path).name == "8"
    assert checkpoints.prepare(folder) == 8
    assert names(tmp_path) == [3, 8] and len(list(folder.iterdir())) == 2


def test_a_killed_first_save_begins_anew(tmp_path):
    (tmp_path / ".1.unfinished.orbax-checkpoint-tmp" / "model").mkdir(parents=True)
    assert checkpoints.prepare(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    train(tmp_path, [3, 8])
    folder = tmp_path / "checkpoints"
    file = folder / "8" / folder.METADATA
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"8 has format 99, .*reads up to 1: update nonlocal_jax"):
        checkpoints.prepare(folder)
    assert contents(tmp_path) == before


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    theirs, ours = tiny(seed=5), tiny()
    metadata = {"config": json.loads(theirs.to_json_best_effort())}
    with pytest.raises(UserError, match=r"8 is a checkpoint of another config:\n.*seed was 5"):
        workdir.check_checkpoint(tmp_path / "8", metadata, ours)
    theirs.seed, theirs.log_every = 0, 7  # what may change
    metadata = {"config": json.loads(theirs.to_json_best_effort())}
    workdir.check_checkpoint(tmp_path / "8", metadata, ours)


def test_a_checkpoint_with_other_arrays_is_refused(tmp_path):
    train(tmp_path, [3])
    with opened(tmp_path) as saved, pytest.raises(UserError, match="does not hold what this conf"):
        saved.restore(3, {**arrays(), "more": jnp.zeros(3)}, {"m": arrays()})


# --- Input workers and other processes ------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hangs", "died"])
def test_an_input_worker_that_fails_ends_a_run_with_its_checkpoint(tmp_path, monkeypatch, fault):
    config = tiny(batch_size=8, total_steps=6, checkpoint_every=2, log_every=2, init_from="")
    config.data.name, config.model.num_classes = "scenes", 5
    config.data.crop_size = (33, 33)
    good = loader.train_batches

    def failing(*arguments, **options):
        batches = good(*arguments, **options)
        yield from (next(batches) for _ in range(3))
        if fault == "died":
            raise RuntimeError(
                "Grain worker process 0 was terminated unexpectedly with exit code -9."
            )
        time.sleep(60)

    def guarded(*arguments, **options):
        return watchdog.guarded(failing(*arguments, **options), buffered=1, patience=1.0)

    monkeypatch.setattr(loader, "train_batches", guarded)
    message = {"hangs": "No batch came .* for 1 seconds", "died": "An input worker died: Grain wor"}
    with pytest.raises(UserError, match=f"(?s){message[fault]}.*resumes from its last checkpoint"):
        training.train(config, tmp_path)
    assert checkpoints.prepare(tmp_path / "checkpoints") == 2


WORKERS = """
import multiprocessing, os, signal, sys
from absl import flags
from nonlocal_jax import cli
from nonlocal_jax.inputs import loader

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    overrides = {"data.name": "folder", "data_dir": sys.argv[1], "data.num_workers": 1}
    config = cli.load_config("configs/demo.py", **overrides, **{"data.crop_size": (32, 32)})
    batches = loader.train_batches(config)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    for _ in range(10):
        next(batches)
    print(worker.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_input_worker_lives_as_long_as_its_parent(tmp_path):
    make_data(tmp_path / "data")
    (tmp_path / "program.py").write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "data"],
        cwd=REPOSITORY,
        env={**ONE_DEVICE, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 20
    while pathlib.Path(f"/proc/{int(done.stdout)}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pathlib.Path(f"/proc/{int(done.stdout)}").exists()


def test_a_process_that_dies_is_told_by_the_others(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}, "meet": True}
    ((code, _, err),) = run_two(given, {**given, "die": True}, wait_for=(0,))
    assert code == 1 and "Traceback" not in err
    assert "lost the connection to another process" in err and "newest checkpoint" in err


def test_other_code_is_named(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}}
    for code, _, err in run_two(given, {**given, "code": "changed"}):
        assert code == 2
        assert "the code of nonlocal_jax is" in err and "changed on process 1 (" in err


def test_what_only_the_first_process_finds_all_report(tmp_path):
    given = {"workdir": str(tmp_path), "config": {}, "first": "The disk is full."}
    for code, _, err in run_two(given, given):
        assert code == 2 and "The disk is full." in err and "Traceback" not in err
