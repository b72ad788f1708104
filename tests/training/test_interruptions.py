"""A run that is killed or told to stop, at any moment, ends as one that was not.

One or two of each kind are in the suite; `make soak` makes twenty.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ports import free_port
from runs import REPOSITORY, log_lines, make_data

from nonlocal_jax.checkpoints import folder as files
from nonlocal_jax.checkpoints.model import load_model

FLAGS = [
    "--config=configs/demo.py",
    "--config.data.name=folder",
    "--config.model.num_classes=3",
    "--config.model.backbone.stem_channels=4",
    "--config.model.backbone.base_channels=4",
    "--config.model.decode_head.channels=8",
    "--config.model.decode_head.dropout=0.1",
    "--config.data.scale=(64,48)",
    "--config.data.crop_size=(32,32)",
    "--config.eval.scale=(64,48)",
    "--config.optimizer.learning_rate=0.01",
    "--config.batch_size=2",
    "--config.total_steps=40",
    "--config.log_every=3",
    "--config.checkpoint_every=5",
    "--config.eval_every=12",
    "--join_timeout=30",
]
# Runs of one process that differ in how they learn; each is killed at random moments.
LEARNING = {
    "adamw_cosine_average": [
        "--config.optimizer.name=adamw",
        "--config.optimizer.schedule.name=cosine",
        "--config.optimizer.warmup_steps=10",
        "--config.optimizer.decay_norms=False",
        "--config.ema_decay=0.9",
    ],
    "nesterov_steps_average": [
        "--config.optimizer.nesterov=True",
        "--config.optimizer.clip_norm=1.0",
        "--config.optimizer.backbone_factor=0.1",
        "--config.optimizer.schedule.name=steps",
        "--config.optimizer.schedule.steps=(10,25)",
        "--config.ema_decay=0.5",
    ],
    "adamw_constant_losses": [
        "--config.optimizer.name=adamw",
        "--config.optimizer.schedule.name=constant",
        "--config.loss.name=sum",
        "--config.loss.first.name=ohem",
        "--config.loss.first.min_kept=100",
        "--config.loss.third_weight=0.5",
        "--config.auxiliary_loss.name=focal",
    ],
}
TOLD_TO_STOP = {signal.SIGTERM: 75, signal.SIGINT: 130}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
LEFT_ALONE = (1, 2, -signal.SIGABRT)  # the other process is gone, or never came
BEGUN = "Training from step"
PATIENCE = 400.0  # JAX gives up on a silent process after 100 seconds


class Launch:
    """The processes of one run; `output` has their lines in files."""

    def __init__(self, folder, workdir, processes, more=()):
        port = free_port()
        environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
        self.output = [folder / f"output{number}" for number in range(processes)]
        self.processes = []
        for number in range(processes):
            command = [sys.executable, "-m", "nonlocal_jax.main", *FLAGS, *more]
            command.append(f"--workdir={workdir}")
            command.append(f"--config.data_dir={folder / 'data'}")
            if processes > 1:
                command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
                command.append(f"--process_id={number}")
            with self.output[number].open("w") as output:
                process = subprocess.Popen(
                    command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output
                )
            self.processes.append(process)

    def said(self):
        return "\n".join(file.read_text() for file in self.output)

    def wait_until(self, said):
        while all(process.poll() is None for process in self.processes):
            if any(text in self.said() for text in said):
                break
            time.sleep(0.01)

    def wait(self):
        """Exit codes of all; none may wait for another for ever."""
        try:
            return [process.wait(timeout=PATIENCE) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()


pytestmark = pytest.mark.soak  # test_train.py has one interruption of each kind


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interruptions")
    make_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def whole(place):
    """Uninterrupted runs by processes and learning: workdir, seconds before and in training."""
    runs = {}

    def get(processes, learning=""):
        key = f"{processes}{learning}"
        if key not in runs:
            workdir, more = place / f"whole{key}", LEARNING.get(learning, ())
            launch, start = Launch(place, workdir, processes, more), time.monotonic()
            launch.wait_until([BEGUN])
            begun = time.monotonic()
            assert launch.wait() == [0] * processes, launch.said()
            runs[key] = workdir, begun - start, time.monotonic() - begun
        return runs[key]

    return get


def interrupt(place, workdir, processes, how, seconds, rng, more=()):
    """Starts the run and sends a signal at a random moment, to one process or all of them."""
    before, training = seconds
    launch = Launch(place, workdir, processes, more)
    if rng.random() < 0.75:
        logged = range(rng.randrange(0, 36, 3), 41)
        launch.wait_until([f"step {step}/40" for step in logged if step] + [BEGUN] * (0 in logged))
        time.sleep(rng.uniform(0, training / 10))
    else:
        time.sleep(rng.uniform(0, before))
    hit = range(processes) if rng.random() < 0.5 else [rng.randrange(processes)]
    for number in hit:
        with contextlib.suppress(ProcessLookupError):
            launch.processes[number].send_signal(how)
    codes = launch.wait()
    check_end(codes, hit, how, launch.said())
    return codes


def check_end(codes, hit, how, said):
    for number, code in enumerate(codes):
        if code == 0:  # it was too late
            continue
        # A process that is still importing its libraries does not answer signals itself.
        expected = {-how, TOLD_TO_STOP.get(how, -how)}
        if number not in hit:
            # Told by the other, that is by JAX; or left alone, where that one had not begun.
            expected = {*TOLD_TO_STOP.values(), *LEFT_ALONE}
        elif how != signal.SIGKILL and BEGUN not in said:
            expected |= set(LEFT_ALONE)  # by the other, which left first
        assert code in expected, f"{codes} after {how} to {list(hit)}:\n{said}"
    importing = how == signal.SIGINT and -how in codes
    assert importing or "Traceback" not in said, said


def records(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "evaluations").iterdir()}


def check_same_end(whole, workdir):
    assert log_lines(workdir) == log_lines(whole)
    assert records(workdir) == records(whole)
    for averaged in (False, True):
        expected, _ = load_model(whole, averaged=averaged)
        actual, metadata = load_model(workdir, averaged=averaged)
        for name, value in expected.items():
            np.testing.assert_array_equal(actual[name], value, err_msg=name)
    folder = workdir / "checkpoints"
    assert metadata == load_model(whole)[1]
    assert all(path.name.isdigit() for path in folder.iterdir()), list(folder.iterdir())
    assert best(workdir) == best(whole)


def best(workdir):
    folder = workdir / "checkpoints"
    scores = {
        step: files.score(folder / str(step))
        for step in sorted(int(path.name) for path in folder.iterdir())
    }
    return max((score, step) for step, score in scores.items() if score is not None)


def check_interruptions(place, whole, processes, how, times, seed, learning=""):
    """Interrupts a run so many times, and lets it finish; one that is at its end is followed by
    another.
    """
    workdir, *seconds = whole(processes, learning)
    more = LEARNING.get(learning, ())
    rng, left, number = random.Random(seed), times, 0
    while left or number < 1:
        interrupted = place / f"{how.name}{processes}{learning}_{seed}_{number}"
        codes = [1]
        while left and any(codes):
            codes = interrupt(place, interrupted, processes, how, seconds, rng, more)
            print(f"{how.name} {processes} run {number}: {codes}", flush=True)
            left -= any(codes)
        if any(codes):
            launch = Launch(place, interrupted, processes, more)
            assert launch.wait() == [0] * processes, launch.said()
        check_same_end(workdir, interrupted)
        number += 1


@pytest.mark.parametrize("how", SIGNALS, ids=lambda how: how.name)
@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_it_ends_as_if_it_had_not_been(place, whole, processes, how):
    check_interruptions(place, whole, processes, how, times=3 - processes, seed=0)


@pytest.mark.parametrize("learning", LEARNING)
def test_killed_however_it_learns_it_ends_as_if_it_had_not_been(place, whole, learning):
    check_interruptions(place, whole, 1, signal.SIGKILL, times=4, seed=9, learning=learning)


@pytest.mark.parametrize("processes", [1, 2])
def test_told_to_stop_in_an_evaluation_it_is_made_again(place, whole, processes):
    workdir, *_ = whole(processes)
    interrupted = place / f"evaluation{processes}"
    launch = Launch(place, interrupted, processes)
    launch.wait_until(["Compiling program"])
    launch.processes[-1].send_signal(signal.SIGTERM)
    assert launch.wait() == [75] * processes, launch.said()
    assert "Told to stop: saved step 12." in launch.said()
    assert not files.is_scored(interrupted / "checkpoints" / "12")
    launch = Launch(place, interrupted, processes)
    assert launch.wait() == [0] * processes, launch.said()
    check_same_end(workdir, interrupted)


def test_told_to_stop_before_the_first_step_it_leaves_at_once(place):
    launch = Launch(place, place / "early", 1)
    launch.wait_until(["Compiling the train step"])
    launch.processes[0].send_signal(signal.SIGTERM)
    assert launch.wait() == [75]
    assert "there is nothing to save" in launch.said() and "Traceback" not in launch.said()
    assert list((place / "early" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("how", SIGNALS, ids=lambda how: how.name)
@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_at_many_moments_it_ends_as_if_it_had_not_been(
    place, whole, processes, how, part
):
    """Twenty interruptions in four parts."""
    check_interruptions(place, whole, processes, how, times=5, seed=1 + part)


@pytest.mark.parametrize("seconds", [20, None], ids=["for_a_while", "for_ever"])
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_stops_answering_is_waited_for_or_told(place, whole, stopped, seconds):
    workdir, *_ = whole(2)
    folder = place / f"silent{stopped}_{seconds}"
    launch = Launch(place, folder, 2)
    launch.wait_until(["step 9/40"])
    launch.processes[stopped].send_signal(signal.SIGSTOP)
    other = launch.processes[1 - stopped]
    if seconds is None:
        code = other.wait(timeout=PATIENCE)
        assert code in LEFT_ALONE, launch.said()
        launch.processes[stopped].kill()
        said = launch.output[1 - stopped].read_text()
        assert "another process" in said and "Start all of them again" in said, said
        assert "Traceback" not in said
        launch = Launch(place, folder, 2)
    else:
        time.sleep(seconds)
        launch.processes[stopped].send_signal(signal.SIGCONT)
    assert launch.wait() == [0, 0], launch.said()
    check_same_end(workdir, folder)
