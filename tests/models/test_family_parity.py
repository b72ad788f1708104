"""Two rows of each sister method at full width against the running reference (make parity)."""

import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from heads import CASES
from networks import NUM_CLASSES, assert_close, fingerprint, golden_batch, golden_variables
from plain import resize_bilinear
from steps import optimizer, train_step

from family_cases import in_network  # isort: skip  # heads has put golden/ on the path
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import rules, torch_file
from nonlocal_jax.checkpoints.pytorch.exporter import export_checkpoint
from nonlocal_jax.checkpoints.pytorch.importer import import_checkpoint
from nonlocal_jax.config import files
from nonlocal_jax.models.network import build_network
from nonlocal_jax.training.step import initial_state

pytestmark = pytest.mark.parity

ODD_SIZE = (193, 257)
TRAINING_SIZE, RATE = (49, 57), 1e-4  # of golden/reference_family.py
# Of both forms of resizing, and of both depths.
ROWS = ("cityscapes_r50_769x769_80k", "cityscapes_r101_512x1024_80k")


def stem_of(config):
    """Folder and name of the row's config in the reference."""
    return "/".join(pathlib.PurePath(config.published.url).parts[-3:-1])


def reference(python, *arguments):
    script = REPOSITORY / "tests" / "golden" / "reference_family.py"
    command = [str(a) for a in (python, "-W", "ignore", script, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("method", CASES)
def test_a_random_checkpoint_gives_the_references_logits_and_comes_back(
    method, row, reference_python, tmp_path
):
    config = files.load(f"{method}:{row}", **{"model.dtype": "float32"})
    images = np.random.default_rng(1).standard_normal((1, *ODD_SIZE, 3)).astype(np.float32)
    original, source, target = (tmp_path / n for n in ("random.pth", "in.npz", "out.npz"))
    np.savez(source, images=images)
    reference(reference_python, "forward", stem_of(config), original, source, target)
    network = build_network(config.model)
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    imported = import_checkpoint(torch_file.read(original), shapes, keys=network.torch_keys)

    @jax.jit
    def forward(variables, images):
        model = network.bind(variables)
        model.eval()
        stages = model.backbone(images)
        return model(images), model.auxiliary_head((stages["stage3"],))

    ours = dict(zip(("decode", "auxiliary"), forward(imported.variables, images), strict=True))
    align = config.model.align_corners
    ours["logits"] = resize_bilinear(ours["decode"], ODD_SIZE, align_corners=align)
    theirs = np.load(target)
    for name, value in ours.items():
        single, double = theirs[f"float32/{name}"], theirs[f"float64/{name}"]
        apart, own, strayed = error(value, single), error(value, double), error(single, double)
        print(f"{method} {row} {name}: {apart:.1e}, to float64 {own:.1e}, theirs {strayed:.1e}")
        assert apart <= 1e-5 or own <= 5 * strayed, name

    metadata = Metadata(kind="segmentor", counters=imported.counters, meta=imported.meta)
    tree = export_checkpoint(imported.variables, metadata, shapes, keys=network.torch_keys)
    torch_file.write(tmp_path / "exported.pth", tree)
    reference(reference_python, "load", stem_of(config), original, tmp_path / "exported.pth")


def error(actual, expected):
    """The largest difference, as a share of the largest magnitude."""
    difference = np.abs(np.asarray(actual, np.float64) - expected.astype(np.float64))
    return difference.max() / np.abs(expected).max()


@pytest.mark.parametrize("method", CASES)
def test_ten_steps_equal_the_references(method, reference_python, tmp_path, monkeypatch):
    """In float64, at tiny widths; see training/test_train_step.py."""
    config = tiny_row(method)
    reference(reference_python, "train", method, stem_of(config), tmp_path / "out.npz")
    theirs = np.load(tmp_path / "out.npz")
    # The golden images are normalised already.
    monkeypatch.setattr(
        "nonlocal_jax.training.tasks.segmentation.normalize", lambda image, _: image
    )
    with jax.enable_x64(True):
        network = build_network(config.model)
        variables = golden_variables(config, network)
        variables = {name: value.astype(jnp.float64) for name, value in variables.items()}
        state = initial_state(network, variables, optimizer(RATE))
        align, losses = config.model.align_corners, []
        step = train_step(network, RATE, align_corners=align)
        for t in range(10):
            state, metrics = step(state, golden_batch(t, TRAINING_SIZE))
            losses.append(float(metrics["loss"]))
    expected = theirs["metric/loss"]
    apart = np.abs(np.array(losses) - expected) / expected
    print(f"{method}: losses within {apart.max():.1e}")
    assert apart.max() < 1e-6
    for name, entry in rules.torch_entries(network.shapes, network.torch_keys).items():
        value = rules.to_torch(np.asarray(state.variables[name]), entry.layout)
        assert_close(fingerprint(entry.key, value), theirs[f"after/{entry.key}"], 1e-6)


def tiny_row(method):
    """The row with aligned corners, but R-18 at base width 4, without dropout, in float64."""
    values = {
        "dtype": "float64",
        "num_classes": NUM_CLASSES,
        "backbone.depth": 18,
        "backbone.stem_channels": 4,
        "backbone.base_channels": 4,
        "auxiliary_head.channels": 8,
        "auxiliary_head.dropout": 0.0,
        "decode_head.dropout": 0.0,
    }
    values |= {f"decode_head.{k}": v for k, v in in_network(CASES[method].ours).items()}
    overrides = {f"model.{key}": value for key, value in values.items()}
    return files.load(f"{method}:{ROWS[0]}", **overrides)
