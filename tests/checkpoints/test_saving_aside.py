"""Training goes on while a checkpoint is written, and hears of what fails before it ends."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved import TRAINING, arrays, names, opened

from nonlocal_jax.checkpoints import folder, manager, model
from nonlocal_jax.errors import UserError

PATIENCE = 30.0  # seconds after which a test fails instead of hanging


class Gate:
    """A disk that writes nothing until it is opened."""

    def __init__(self):
        self.opened, self.threads = threading.Event(), []

    def before(self, method):
        def waiting(*arguments, **options):
            self.threads.append(threading.current_thread())
            assert self.opened.wait(PATIENCE), "nobody opened the gate: the caller waits"
            return method(*arguments, **options)

        return waiting


@pytest.fixture(params=["save", "digests"])
def gate(request, monkeypatch):
    """A gate before everything that Orbax does, or before the digests of what it has written."""
    gate = Gate()
    holder, name = {
        "save": (manager.Manager, "save"),
        "digests": (folder, "write_digests"),
    }[request.param]
    monkeypatch.setattr(holder, name, gate.before(getattr(holder, name)))
    return gate


step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)


def test_steps_run_while_a_checkpoint_is_written(gate, tmp_path):
    state = arrays(5), {"m": arrays(-5)}
    with opened(tmp_path) as saved:
        saved.save(5, *state, TRAINING)
        for _ in range(3):
            state = step(state)
            saved.check()
        name = "decode_head/classifier/bias"
        np.testing.assert_array_equal(state[0][name], arrays(8)[name])
        assert saved.newest == 5 and names(tmp_path) == []
        waits = threading.Thread(target=saved.wait)
        waits.start()
        waits.join(0.2)
        assert waits.is_alive() and names(tmp_path) == []
        gate.opened.set()
        waits.join(PATIENCE)
        assert names(tmp_path) == [5]
    assert threading.main_thread() not in gate.threads
    for name, value in arrays(5).items():
        np.testing.assert_array_equal(model.load_model(tmp_path)[0][name], value)


def test_the_next_save_waits_for_the_one_before(gate, tmp_path):
    with opened(tmp_path) as saved:
        saved.save(1, arrays(1), {"m": arrays(-1)}, TRAINING)
        again = threading.Thread(
            target=saved.save, args=(2, arrays(2), {"m": arrays(-2)}, TRAINING)
        )
        again.start()
        again.join(0.2)
        assert again.is_alive() and saved.newest == 1
        gate.opened.set()
        again.join(PATIENCE)
    assert names(tmp_path) == [1, 2]


def failing(self, step, **options):
    raise OSError(28, "No space left on device")


TELL = {
    "check": lambda saved: [saved._saving[1].exception(PATIENCE), saved.check()],
    "wait": lambda saved: saved.wait(),
    "save": lambda saved: saved.save(2, arrays(2), {"m": arrays(-2)}, TRAINING),
    "score": lambda saved: saved.score(1, 0.5),
    "close": lambda saved: saved.close(),
}


@pytest.mark.parametrize("call", TELL)
def test_a_save_that_fails_at_once_is_told_by_the_next_call(call, tmp_path, monkeypatch):
    monkeypatch.setattr(manager.Manager, "save", failing)
    saved = opened(tmp_path)
    saved.save(1, arrays(1), {"m": arrays(-1)}, TRAINING)
    with pytest.raises(UserError, match=r"Cannot write the checkpoint .*/1: No space left on dev"):
        TELL[call](saved)
    saved.wait()  # once
    saved.close()


def test_a_rehearsal_writes_nothing_and_keeps_nothing(tmp_path):
    variables = {"x": jnp.arange(1 << 12, dtype=jnp.float32)}
    with opened(tmp_path) as saved:
        saved.rehearse(variables, {"m": variables}, {})
        assert saved.newest == 0
    assert list((tmp_path / "checkpoints").iterdir()) == []
