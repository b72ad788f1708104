"""Evaluation against the reference's (golden/make_inference.py), and every pixel exactly once."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from PIL import Image
from test_model import golden_variables, tiny_config

from nonlocal_jax import api, evaluate, sharding
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.build import build_network

GOLDEN = pathlib.Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

from pictures import IGNORE, NUM_CLASSES, SIZES, label, picture  # noqa: E402

REFERENCE = np.load(GOLDEN / "inference.npz")
EVERY = 5  # make_inference.py stored the probabilities of one pixel in five along each axis


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden pictures as a data set."""
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root, {str(i): (picture(i), label(i)) for i in range(len(SIZES))})
    return root


def write_folder(root, examples):
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(NUM_CLASSES)))
    for name, (image, labels) in examples.items():
        Image.fromarray(image).save(root / "images" / "val" / f"{name}.png")
        Image.fromarray(labels).save(root / "labels" / "val" / f"{name}.png")


def config_for(root, mode="whole"):
    config = tiny_config(align_corners=mode == "slide")
    with config.unlocked():
        config.data_dir, config.data.name = str(root), "folder"
        config.eval.mode, config.eval.scale = mode, (96, 64)
        config.eval.window, config.eval.stride = (49, 49), (33, 33)
    return config


def mesh_of(devices):
    grid = np.array(jax.devices()[:devices]).reshape(-1, 1, 1)
    return Mesh(grid, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def evaluate_tiny(config, *, devices=1, **options):
    network = build_network(config.model)
    mesh = mesh_of(devices)
    variables = jax.device_put(golden_variables(config, network), sharding.replicated(mesh))
    return evaluate.evaluate(network, variables, config, mesh=mesh, log=print, **options)


@pytest.mark.parametrize(
    ("case", "devices"),
    [
        ("whole", 8),
        ("slide", 1),
        ("whole_tta", 1),
        pytest.param("slide_tta", 8, marks=pytest.mark.parity),
    ],
)
def test_predictions_and_scores_equal_the_references(folder, case, devices):
    mode, _, tta = case.partition("_")
    masks = {}
    scores = evaluate_tiny(
        config_for(folder, mode), devices=devices, tta=bool(tta), on_mask=masks.__setitem__
    )
    assert sorted(masks) == list(range(len(SIZES)))
    for index, mask in masks.items():
        np.testing.assert_array_equal(mask, REFERENCE[f"{case}/mask{index}"])
    expected = {
        "iou": "IoU",
        "acc": "Acc",
        "dice": "Dice",
        "fscore": "Fscore",
        "precision": "Precision",
        "aacc": "aAcc",
    }
    for ours, theirs in expected.items():
        np.testing.assert_allclose(
            getattr(scores, ours), REFERENCE[f"{case}/scores/{theirs}"], rtol=1e-6
        )
    assert scores.miou == pytest.approx(np.nanmean(REFERENCE[f"{case}/scores/IoU"]), rel=1e-6)
    assert scores.mfscore == pytest.approx(np.nanmean(REFERENCE[f"{case}/scores/Fscore"]), rel=1e-6)
