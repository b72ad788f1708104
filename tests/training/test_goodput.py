"""Goodput: every second of a run belongs to one bucket, also over restarts."""

import json
import threading

import pytest

from nonlocal_jax.reporting import time_spent
from nonlocal_jax.training import goodput
from nonlocal_jax.training.goodput import Goodput


class Clock:
    """Both clocks of the module, which stand still until a test moves them."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def time(self):
        return 1e9 + self.now


class Step:
    """The result of a step on a device that is told when it is done."""

    def __init__(self):
        self.done = threading.Event()

    def block_until_ready(self):
        assert self.done.wait(10)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(goodput, "time", clock)
    return clock


def finish(times, step):
    """The device finishes a step, and the thread that follows it has noticed."""
    step.done.set()
    while times._finished.idle_since() is None:
        pass


def run_steps(times, clock, steps, seconds):
    """Steps of so many seconds whose batches are always there."""
    for number in steps:
        times.got_batch()
        result = Step()
        times.started(number, result)
        clock.now += seconds
        finish(times, result)


def seconds_of(workdir):
    return json.loads((workdir / goodput.FILE).read_text())["seconds"]


def test_every_second_belongs_to_one_bucket(tmp_path, clock):
    times = Goodput(tmp_path)
    clock.now += 7.0
    with times.inside("compiling"):
        clock.now += 20.0
    times.begin(0)
    run_steps(times, clock, range(1, 6), 2.0)
    with times.inside("saving"):
        clock.now += 3.0
    with times.inside("evaluating"):
        clock.now += 10.0
    run_steps(times, clock, range(6, 11), 2.0)
    assert times.note(10) == pytest.approx(20 / 60)
    expected = {"starting": 7, "compiling": 20, "steps": 20, "saving": 3, "evaluating": 10}
    assert {k: v for k, v in seconds_of(tmp_path).items() if v} == pytest.approx(expected)
    table = times.table().splitlines()
    assert len(table) == 6  # buckets without time are left out
    assert table[1].split() == ["training", "steps", "20.0", "33.3%"]
    times.close()


def test_input_counts_only_while_the_device_has_nothing_to_do(tmp_path, clock):
    times = Goodput(tmp_path)
    times.begin(0)
    clock.now += 4.0  # for the first batch
    times.got_batch()
    first = Step()
    times.started(1, first)
    clock.now += 3.0  # the device works
    times.got_batch()  # came meanwhile
    second = Step()
    times.started(2, second)
    first.done.set()
    clock.now += 1.0
    finish(times, second)
    clock.now += 6.0  # it is done, and the batch is late
    times.got_batch()
    times.note(2)
    seconds = seconds_of(tmp_path)
    assert (seconds["input"], seconds["steps"]) == pytest.approx((4 + 6, 3 + 1))
    times.close()


def test_a_restart_counts_the_pause_and_the_steps_that_are_done_again(tmp_path, clock):
    first = Goodput(tmp_path)
    first.begin(0)
    run_steps(first, clock, range(1, 11), 1.0)
    first.note(10)
    first.close()
    clock.now += 5.0  # killed after its last note, and started again later
    clock.now += 30.0
    second = Goodput(tmp_path)
    clock.now += 2.0
    second.begin(6)  # from the checkpoint of step 6
    run_steps(second, clock, range(7, 16), 1.0)
    share = second.note(15)
    seconds = seconds_of(tmp_path)
    assert seconds["down"] == pytest.approx(35)
    assert seconds["starting"] == pytest.approx(2)
    assert seconds["repeated"] == pytest.approx(4, abs=1)  # the switch is after the step began
    assert seconds["steps"] + seconds["repeated"] == pytest.approx(10 + 9)
    assert share == pytest.approx(seconds["steps"] / sum(seconds.values()))
    second.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\x00", b"[1]", b'{"step": 1}', b'{"step": 1, "noted": "x", "seconds": {}}'],
)
def test_a_damaged_file_is_told_and_the_count_begins_anew(tmp_path, clock, capsys, content):
    (tmp_path / goodput.FILE).write_bytes(content)
    times = Goodput(tmp_path)
    assert "can't be read: goodput is counted from this start on" in capsys.readouterr().out
    times.begin(0)
    run_steps(times, clock, range(1, 3), 1.0)
    assert times.note(2) == pytest.approx(1.0)
    assert seconds_of(tmp_path)["down"] == 0
    times.close()


@pytest.mark.parametrize("name", ["steps", "down"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_not_taken_over(tmp_path, clock, capsys, name, value):
    seconds = dict.fromkeys(time_spent.BUCKETS, 1.0) | {name: value}
    content = {"step": 3, "noted": clock.time(), "seconds": seconds}
    (tmp_path / goodput.FILE).write_text(json.dumps(content))
    times = Goodput(tmp_path)
    assert "can't be read" in capsys.readouterr().out
    times.close()


def test_a_folder_that_can_not_be_written_ends_no_run(tmp_path, clock):
    (tmp_path / "file").touch()
    times = Goodput(tmp_path / "file")  # no folder
    clock.now += 1.0
    assert times.note(1) == 0.0
    times.close()


def test_while_the_device_is_busy_the_loop_reads_no_clock(tmp_path, clock, monkeypatch):
    times = Goodput(tmp_path)
    times.begin(0)
    times.started(1, Step())  # it never ends
    monkeypatch.delattr(Clock, "perf_counter")
    for number in range(2, 50):
        times.got_batch()
        times.started(number, Step())
