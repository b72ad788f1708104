"""Checkpoints of two small arrays, as a run saves them, and what can happen to their files."""

import os
import pathlib
import tarfile

import jax.numpy as jnp
import numpy as np

from nonlocal_jax.checkpoints import run
from nonlocal_jax.checkpoints.metadata import Metadata

RUN_OF_0_1 = pathlib.Path(__file__).resolve().parent.parent / "golden" / "run_of_0_1"
VARIABLES = {
    "backbone/stem/0/conv/kernel": np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    "decode_head/classifier/bias": np.array([0.5, -1.0], np.float32),
}
TRAINING = Metadata(kind="training")


def arrays(offset=0.0):
    return {name: jnp.asarray(value + np.float32(offset)) for name, value in VARIABLES.items()}


def opened(directory, keep=2):
    """The checkpoints of the run in `directory`."""
    run.prepare(directory / "checkpoints")
    return run.RunCheckpoints(directory / "checkpoints", keep=keep)


def train(directory, steps, keep=2, mious=None, metadata=TRAINING):
    """Saves `steps`, with their mIoU if it is given."""
    with opened(directory, keep) as saved:
        for step in steps:
            saved.save(step, arrays(step), {"m": arrays(-step)}, metadata)
            if mious and step in mious:
                saved.score(step, mious[step])


def names(directory):
    """The steps that have a folder."""
    return sorted(int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file, bit=4):
    """Flips a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= bit
    file.write_bytes(content)


def cut(file, size):
    os.truncate(file, size)


def unpack(name, folder):
    """The "run" or the "imported" checkpoint that version 0.1 made; see golden/run_of_0_1."""
    with tarfile.open(RUN_OF_0_1 / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name
