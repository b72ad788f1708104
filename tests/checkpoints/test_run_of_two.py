"""Two processes that save one run while they train together, and when the first one's disk is full.

Both are in the collectives of steps that donate the arrays while their threads meet for the save.
"""

import os
import subprocess
import sys
import time

import numpy as np
from conftest import REPOSITORY
from ports import free_port
from saved import names, train

from nonlocal_jax.checkpoints import folder, model

PROGRAM = """
import os, pathlib, resource, sys
number, port, run, fails = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4]
import jax
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.run import RunCheckpoints
from nonlocal_jax.errors import UserError

everywhere = Mesh(np.array(jax.devices()), ("data",))
def array(value, *spec):
    sharding = NamedSharding(everywhere, PartitionSpec(*spec))
    values = np.full(8, value, np.float32)
    return jax.make_array_from_callback((8,), sharding, lambda at: values[at])

def train(tree):  # each step needs the other process
    return jax.tree.map(lambda x: x + x.sum() * 0 + 1, tree)

train = jax.jit(train, donate_argnums=0)

def refuse(*_, **__):  # it could meet the collectives of steps in another order elsewhere
    os._exit(3)

multihost_utils.sync_global_devices = multihost_utils.broadcast_one_to_all = refuse
saved = RunCheckpoints(run / "checkpoints", keep=1)
for step in (2, 3, 4):
    if step == 4 and fails == "fails" and number == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    state = {"w": array(step)}, {"m": array(-step, "data")}
    try:
        saved.save(step, *state, Metadata(kind="training"))
        for _ in range(200):
            state = train(state)
        assert (np.asarray(state[0]["w"]) == step + 200).all()
        saved.wait()
    except UserError as error:
        sys.stderr.write(f"UserError: {error}")
        sys.stderr.flush()
        os._exit(2)
    saved.score(step, {2: 0.5, 3: 0.75, 4: 0.25}[step])
variables, optimizer = saved.restore(4, {"w": array(0)}, {"m": array(0, "data")})
assert (np.asarray(variables["w"]) == 4).all()
assert all((part.data == -4).all() for part in optimizer["m"].addressable_shards)
saved.close()
os._exit(0)
"""


def run_two(directory, fails):
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(number), str(port), directory, fails],
            cwd=REPOSITORY,
            env={**environment, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    try:
        _, first = processes[0].communicate(timeout=240)
        if fails:
            processes[1].kill()
        _, second = processes[1].communicate(timeout=240)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], first, second


def test_two_save_the_latest_and_the_best(tmp_path):
    train(tmp_path, [1], mious={1: 0.0})
    codes, *said = run_two(tmp_path, "")
    assert codes == [0, 0], said
    assert names(tmp_path) == [3, 4]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    for step in (3, 4):
        assert folder.damage(tmp_path / "checkpoints" / str(step)) is None
    np.testing.assert_array_equal(model.load_model(tmp_path)[0]["w"], np.full(8, 3, np.float32))


def test_a_full_disk_of_the_first_ends_it_without_the_other(tmp_path):
    train(tmp_path, [1], mious={1: 0.0})
    begun = time.monotonic()
    codes, said, _ = run_two(tmp_path, "fails")
    assert codes[0] == 2, said
    assert "UserError: Cannot write the checkpoint" in said and "oo large" in said
    assert time.monotonic() - begun < 200  # Orbax alone waits for the other one for 20 minutes
    assert names(tmp_path) == [3]
