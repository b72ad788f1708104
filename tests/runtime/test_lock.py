"""One run a workdir, whatever became of the last one."""

import json
import os
import subprocess
import sys
import threading

import pytest

from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import lock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "WATCH_SECONDS", 1.5)
    monkeypatch.setattr(lock, "TOUCH_SECONDS", 0.2)


def owned_by(folder, **facts):
    (folder / lock.NAME).write_text(json.dumps({**lock._me(), **facts}))


def test_a_second_process_is_kept_out_by_name_and_let_in_afterwards(tmp_path):
    held = "from nonlocal_jax.runtime import lock; import pathlib, sys\n"
    held += "with lock.held(pathlib.Path(sys.argv[1])): print('in', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "in\n"
        message = f"in use by process {process.pid} on .*--workdir"
        with pytest.raises(UserError, match=message), lock.held(tmp_path):
            pass
        process.kill()
    with lock.held(tmp_path):
        assert (tmp_path / lock.NAME).exists()
    assert not list(tmp_path.iterdir())


def test_a_dead_process_that_nobody_collected_locks_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owned_by(tmp_path, pid=process.pid, started=lock._started(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with lock.held(tmp_path):
            pass


def test_a_process_number_that_another_process_has_now_locks_nothing(tmp_path):
    owned_by(tmp_path, started="1")
    with lock.held(tmp_path):
        pass


@pytest.mark.parametrize("facts", [{"boot": "another"}, {"processes": "pid:[1]"}], ids=str)
def test_elsewhere_an_owner_lives_as_long_as_it_touches_the_lock(tmp_path, facts):
    owned_by(tmp_path, host="far", pid=1, **facts)
    ended = threading.Event()
    thread = threading.Thread(target=lock._touch, args=(tmp_path / lock.NAME, ended))
    thread.start()
    try:
        with pytest.raises(UserError, match="process 1 on far"), lock.held(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1e400}', "[" * 100_000]
)
def test_a_damaged_lock_is_nobodys(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with lock.held(tmp_path):
        pass


def test_of_many_that_find_a_dead_owner_one_comes_in_at_a_time(tmp_path):
    owned_by(tmp_path, started="1")
    inside, most, refused = [], [], []

    def enter():
        try:
            with lock.held(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(refused) == 8


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = r"as the workdir: .*--workdir"
    with pytest.raises(UserError, match=message), lock.held(tmp_path / "file" / "run"):
        pass
