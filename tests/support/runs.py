"""Runs of the training command, shrunk until they take seconds."""

import json
import os
import subprocess
import sys

import numpy as np
from networks import TESTS, golden_variables, tiny_config
from PIL import Image

from nonlocal_jax.checkpoints import model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.models.network import build_network

REPOSITORY = TESTS.parent
SHRUNK = [
    "--config.model.backbone.stem_channels=4",
    "--config.model.backbone.base_channels=4",
    "--config.model.decode_head.channels=8",
    "--config.model.auxiliary_head.channels=4",
    "--config.batch_size=2",
    "--config.total_steps=8",
    "--config.log_every=2",
    "--config.checkpoint_every=2",
    "--config.eval_every=8",
    "--config.eval.batch_size=8",
]
# Keys of metrics.jsonl that differ from run to run.
TIMES = ("images_per_second", "clips_per_second", "time", "goodput")
# Quick compilation, as in this process (conftest.py), but of one device.
FLAGS = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
ONE_DEVICE = {**os.environ, "XLA_FLAGS": " ".join(FLAGS)}


def command(workdir, *extra):
    """The words of a run of configs/demo.py that takes a few seconds."""
    arguments = ["--config=configs/demo.py", f"--workdir={workdir}", *SHRUNK, *extra]
    return [sys.executable, "-m", "nonlocal_jax.main", *arguments]


def run(workdir, *extra):
    """Its exit code, and what it wrote to standard output and standard error."""
    done = subprocess.run(
        command(workdir, *extra),
        cwd=REPOSITORY,
        env=ONE_DEVICE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def log_lines(workdir):
    """What a run's log says, but for times."""
    parsed = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in parsed]


def tiny(**overrides):
    """A config with a network of depth 18 at base width 4; overrides are any of its keys."""
    return files.override(tiny_config(**{"backbone.depth": 18}), **overrides)


def saved_model(directory, config, kind="segmentor", only=""):
    """Saves the golden weights of a network whose names begin with `only`, and returns them."""
    network = build_network(config.model)
    variables = golden_variables(config, network)
    chosen = {k: np.asarray(v) for k, v in variables.items() if k.startswith(only)}
    model.save_model(directory, chosen, Metadata(kind=kind, config=config))
    return chosen


def make_data(folder):
    """A data set of 11 and 9 small images with 3 classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 11), ("val", 9)):
        for number in range(count):
            label = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            image = np.stack([80 * label, 255 - 80 * label, 40 * label], axis=-1)
            for kind, pixels in (("images", image), ("labels", label)):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / kind / split / f"{number}.png")
    (folder / "classes.txt").write_text("a\nb\nc\n")
