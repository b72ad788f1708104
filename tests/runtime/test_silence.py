"""A process that waits for another one says so."""

import time

import jax
import pytest

from nonlocal_jax.runtime.silence import Silence


def lines_of(capsys, monkeypatch, count, seconds, mine=0):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(jax, "process_index", lambda: mine)
    silence = Silence(patience=0.2)
    for wait in seconds:
        with silence.pause():
            time.sleep(0.5)  # an evaluation, say
        time.sleep(wait)
    silence.close()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("mine", [0, 1])
def test_each_long_wait_is_told_once(capsys, monkeypatch, mine):
    told = lines_of(capsys, monkeypatch, 2, [0.8, 0.0, 0.8], mine)
    assert len(told) == 2 and all("another process is stopped" in line for line in told)


def test_a_process_alone_waits_for_none(capsys, monkeypatch):
    assert not lines_of(capsys, monkeypatch, 1, [0.5])
