"""A flipped byte in a run's folder or a kept program is repaired, refused, or has no effect.

`make soak` runs it: sixty flips, each followed by the command that goes on with the run.
"""

import json
import os
import random
import shutil
import subprocess

import numpy as np
import pytest
from runs import ONE_DEVICE, REPOSITORY, TIMES, command

from nonlocal_jax.checkpoints import model

pytestmark = pytest.mark.soak
LAST = ["--config.total_steps=8", "--config.eval_every=4", "--config.checkpoint_every=2"]


def start(workdir, cache, *extra):
    """Runs the command, with programs kept in a folder of its own."""
    done = subprocess.run(
        command(workdir, *LAST, *extra),
        cwd=REPOSITORY,
        env=ONE_DEVICE | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def numbers(workdir):
    """The weights, and what the log says, but for times."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return model.load_model(workdir, "latest")[0], told


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was killed half way, its programs, and the numbers of one that was not."""
    folder = tmp_path_factory.mktemp("flips")
    os.chmod(folder, 0o700)
    code, told = start(folder / "whole", folder / "cache")
    assert code == 0, told
    shutil.copytree(folder / "whole", folder / "half")
    for step in ("6", "8"):
        shutil.rmtree(folder / "half" / "checkpoints" / step, ignore_errors=True)
    return folder, numbers(folder / "whole")


def flip(rng, folders):
    """Flips one bit of one file, chosen first; returns its path."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    path = rng.choice([file for file in files if file.stat().st_size])
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_changes_no_number(half, tmp_path, seed):
    folder, (weights, log) = half
    tmp_path.chmod(0o700)
    shutil.copytree(folder / "half", tmp_path / "run")
    shutil.copytree(folder / "cache", tmp_path / "cache")
    where = tmp_path / ("cache" if seed % 4 == 0 else "run")
    path = flip(random.Random(seed), [where])
    code, told = start(tmp_path / "run", tmp_path / "cache")
    print(path, code)
    assert "Traceback" not in told
    if code == 2:  # refused: by the name of the file, or of what it holds
        assert path.name in told or "run" in told
        return
    assert code == 0, told
    found, lines = numbers(tmp_path / "run")
    assert lines[-1] == log[-1]
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value, err_msg=f"{path} {name}")
