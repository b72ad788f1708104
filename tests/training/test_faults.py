"""What goes wrong from outside ends in one message, and loses nothing that was there."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from runs import ONE_DEVICE, REPOSITORY, command, make_data, run, tiny
from saved import contents

from nonlocal_jax.checkpoints import model
from nonlocal_jax.checkpoints import run as checkpoints
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import watchdog
from nonlocal_jax.inputs.example import Example
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.models.backbones import resnet
from nonlocal_jax.training import loop, run_log, workdir
from nonlocal_jax.training.step_metrics import StepMetrics

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

    def name(self, index):
        return str(index)

    def image_size(self, index):
        return 64, 64


def test_the_examples_of_a_batch_are_known_by_index(monkeypatch):
    monkeypatch.setattr(Inputs, "open", lambda *_: Numbers())
    whole = {"data.scale": (64, 64), "data.crop_size": (64, 64), "data.ratio_range": (1.0, 1.0)}
    more = {"data.photometric_distortion": False, "model.num_classes": 150}
    config = tiny(seed=3, batch_size=5, **whole, **more)
    inputs = Inputs.of(config)
    batches = inputs.train_batches()
    for step in range(1, 25):  # beyond two epochs
        held = next(batches)["image"][:, 5, 5, 0].tolist()
        assert inputs.batch_indices(step) == held
        assert ", ".join(map(str, held)) in inputs.describe_batch(step)


def test_a_run_skips_what_it_may_and_then_stops(tmp_path):
    code, out, err = run(
        tmp_path,
        "--config.optimizer.learning_rate=1e12",
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
    variables, metadata = model.load_model(tmp_path)
    assert all(np.isfinite(value).all() for value in variables.values())
    assert metadata.recent["skipped"] == skipped[: len(metadata.recent["skipped"])]


# --- A full disk, a folder that can't be written --------------------------------------------------


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
    assert model.load_model(kept)


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    log = run_log.RunLog(tmp_path)
    log._file.close()
    log._file = open("/dev/full", "a")  # noqa: SIM115 (the log closes it)
    with pytest.raises(UserError, match=r"Cannot write .*metrics.jsonl: No space left"):
        log.write(1, {"loss": 1.0})
    log.close()


def test_a_workdir_below_a_file_is_one_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(tmp_path / "file" / "run")
    assert code == 2 and "as the workdir" in err and "--workdir" in err and "Traceback" not in err


# --- A workdir that is damaged, or another's ------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00garbage", b'{"seed": 0', b"[" * 100_000]
)
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


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    theirs, ours = Metadata(kind="training", config=tiny(seed=5)), tiny()
    with pytest.raises(UserError, match=r"8 is a checkpoint of another config:\n.*seed was 5"):
        workdir.check_checkpoint(tmp_path / "8", theirs, ours)
    theirs = Metadata(kind="training", config=tiny(log_every=7))  # what may change
    workdir.check_checkpoint(tmp_path / "8", theirs, ours)


# --- Input workers --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hangs", "died"])
def test_an_input_worker_that_fails_ends_a_run_with_its_checkpoint(tmp_path, monkeypatch, fault):
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 18, (1, 1, 1, 1))
    monkeypatch.setattr(watchdog, "CLOSING", 0.5)
    often = {"batch_size": 8, "total_steps": 6, "checkpoint_every": 2, "log_every": 2}
    scenes = {"data.name": "scenes", "model.num_classes": 5, "data.crop_size": (33, 33)}
    config = tiny(**often, **scenes, init_from="")
    good = Inputs.train_batches

    def failing(*arguments, **options):
        batches = good(*arguments, **options)
        yield from (next(batches) for _ in range(3))
        if fault == "died":
            raise RuntimeError(
                "Grain worker process 0 was terminated unexpectedly with exit code -9."
            )
        time.sleep(60)

    def guarded(*arguments, **options):
        return watchdog.guarded(failing(*arguments, **options), buffered=1, patience=4.0)

    monkeypatch.setattr(Inputs, "train_batches", guarded)
    message = {"hangs": "No batch came .* for 4 seconds", "died": "An input worker died: Grain wor"}
    with pytest.raises(UserError, match=f"(?s){message[fault]}.*resumes from its last checkpoint"):
        loop.train(config, tmp_path)
    assert checkpoints.prepare(tmp_path / "checkpoints") == 3  # the last one that was finished


def test_a_step_is_saved_if_the_log_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 18, (1, 1, 1, 1))
    often = {"batch_size": 8, "total_steps": 6, "checkpoint_every": 6, "log_every": 2}
    scenes = {"data.name": "scenes", "model.num_classes": 5, "data.crop_size": (33, 33)}

    def full(self, step, scalars):
        if step == 4:
            raise UserError("the disk of the log is full")

    monkeypatch.setattr(run_log.RunLog, "write", full)
    with pytest.raises(UserError, match="the disk of the log is full"):
        loop.train(tiny(**often, **scenes, init_from=""), tmp_path)
    assert checkpoints.prepare(tmp_path / "checkpoints") == 4


WORKERS = """
import multiprocessing, os, signal, sys
from absl import flags
from nonlocal_jax.config import files
from nonlocal_jax.inputs.loader import Inputs

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    overrides = {"data.name": "folder", "data_dir": sys.argv[1], "data.num_workers": 1}
    overrides |= {"data.crop_size": (32, 32), "model.num_classes": 3}
    batches = Inputs.of(files.load("demo", **overrides)).train_batches()
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
