"""Preparing a data set that is killed in the middle."""

import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import synthetic_trees
from conftest import REPOSITORY
from prepared import check_records, run

from nonlocal_jax.config.schema import Data
from nonlocal_jax.inputs import datasets, sources

WAITING = """
import sys, time
from nonlocal_jax import prepare
from nonlocal_jax.inputs.preparation import verification

check, place = verification.check, sys.argv.pop(1)

def wait_there(image, label, num_classes, name):
    if name.endswith(place):
        time.sleep(600)
    check(image, label, num_classes, name)

verification.check = wait_there
sys.exit(prepare.run())
"""


@pytest.fixture
def start() -> Iterator[Callable[[pathlib.Path, pathlib.Path], subprocess.Popen[bytes]]]:
    """Starts the command as a process of its own; none outlives the test."""
    started = []

    def command(
        source: pathlib.Path, output: pathlib.Path, waits_at: str = ""
    ) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "nonlocal_jax.prepare"]
        if waits_at:
            line = [sys.executable, "-c", WAITING, waits_at]
        line += ["camvid", "--allow_incomplete", f"--source={source}", f"--output={output}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(line, cwd=REPOSITORY, **pipes))
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.communicate()


def test_kill_in_the_middle_leaves_nothing_that_passes_for_a_data_set(tmp_path, start):
    source, output = tmp_path / "tree", tmp_path / "out"
    expected = synthetic_trees.camvid(source, train=300)
    process = start(source, output, waits_at="images/val/0001TP_006720.jpg")
    deadline = time.monotonic() + 60
    while not list(output.glob("camvid/incomplete.*/*train*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    second = start(source, output)
    assert b"Another run is preparing" in second.communicate(timeout=60)[0]
    assert second.returncode == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(output.glob("camvid/incomplete.*"))
    assert sources.find_prepared(datasets.describe(Data(name="camvid")), str(output)) is None
    rerun = start(source, output)
    printed, _ = rerun.communicate(timeout=60)
    assert rerun.returncode == 0, printed.decode()
    assert b"complete" in printed and b"90x120" in printed
    assert not list(output.glob("camvid/incomplete.*"))
    check_records(output / "camvid/1.0.0", expected)
    here = run("camvid", source, tmp_path / "other")
    for path in here.iterdir():  # another process writes the same bytes
        assert path.read_bytes() == (output / "camvid/1.0.0" / path.name).read_bytes(), path.name
