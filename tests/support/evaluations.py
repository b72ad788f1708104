"""Small data sets, networks with known weights for them, and commands that evaluate them."""

import contextlib
import io
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from networks import GOLDEN, TESTS, golden_variables, tiny_config
from PIL import Image

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import save_model
from nonlocal_jax.config import files
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.models.network import build_network
from nonlocal_jax.runtime import sharding

sys.path.insert(0, str(GOLDEN))

from pictures import IGNORE, NUM_CLASSES, SIZES, label, picture

REFERENCE = np.load(GOLDEN / "inference.npz")
EVERY = 5  # make_inference.py stored the probabilities of one pixel in five along each axis


def write_folder(root, examples):
    """A data set whose validation split has (image, label) by name."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(NUM_CLASSES)))
    for name, (image, labels) in examples.items():
        Image.fromarray(image).save(root / "images" / "val" / f"{name}.png")
        Image.fromarray(labels).save(root / "labels" / "val" / f"{name}.png")


def golden_examples():
    """The pictures and labels that the reference has evaluated."""
    return {str(i): (picture(i), label(i)) for i in range(len(SIZES))}


def mixed_examples(count, seed=0, largest=60):
    """Pictures and labels of random sizes."""
    rng = np.random.default_rng(seed)
    examples = {}
    for index in range(count):
        size = tuple(int(side) for side in rng.integers(5, largest, 2))
        labels = rng.integers(0, NUM_CLASSES, size).astype(np.uint8)
        labels[rng.random(size) < 0.2] = IGNORE
        examples[f"{index:03}"] = (rng.integers(0, 256, (*size, 3), np.uint8), labels)
    return examples


def labelled(labels):
    """How many pixels of some masks have a label."""
    return sum(int((each != IGNORE).sum()) for each in labels)


def config_for(root, mode="whole", **overrides):
    """The golden network's config for a data set; overrides are any of its keys."""
    values = {
        "data_dir": str(root),
        "data.name": "folder",
        "eval.mode": mode,
        "eval.scale": (96, 64),
        "eval.window": (49, 49),
        "eval.stride": (33, 33),
    }
    tiny = tiny_config(align_corners=mode == "slide")
    return files.override(tiny, **{**values, **overrides})


def small(root, **overrides):
    """The config of a network that compiles in a moment, where its numbers do not matter."""
    values = {
        "model.backbone.depth": 18,
        "model.backbone.output_stride": 32,
        "model.decode_head.name": "fcn",
        "model.decode_head.num_convs": 1,
        "model.auxiliary_head.loss_weight": 0.0,
    }
    return config_for(root, **{**values, **overrides})


def mesh_of(devices):
    """A mesh that splits batches over the first devices."""
    grid = np.array(jax.devices()[:devices]).reshape(-1, 1, 1)
    return Mesh(grid, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def evaluation_of(config, *, devices=1, mesh=None, tta=False):
    """The evaluation of a config, and the golden weights on its mesh."""
    network, mesh = build_network(config.model), mesh or mesh_of(devices)
    variables = jax.device_put(golden_variables(config, network), sharding.replicated(mesh))
    return Evaluation.of(config, network, mesh, tta=tta), variables


def evaluate_tiny(config, *, devices=1, mesh=None, tta=False, log=print, **options):
    """Scores of the golden weights."""
    evaluation, variables = evaluation_of(config, devices=devices, mesh=mesh, tta=tta)
    return evaluation.run(variables, log=log, **options)


def saved(config, path):
    """A checkpoint of the golden weights, as conversion writes it."""
    network = build_network(config.model)
    variables = {k: np.asarray(v) for k, v in golden_variables(config, network).items()}
    save_model(path, variables, Metadata(kind="segmentor", network="tiny", config=config))
    return path


def run_command(command, *arguments):
    """What a command of this package says, run in this process: returncode, stdout, stderr."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        # Not this session's cache of compiled programs, which a command would set.
        mock.patch.dict(os.environ, {"JAX_COMPILATION_CACHE_DIR": ""}),
    ):
        code = command.run(list(arguments))
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def start_command(name, *arguments):
    """The same for a command by its name, as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", f"nonlocal_jax.{name}", *arguments],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
