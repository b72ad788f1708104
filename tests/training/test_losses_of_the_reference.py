"""Every loss, its gradient and the pixels that OHEM keeps, against the reference's in float64."""

import subprocess

import jax
import loss_cases as cases
import numpy as np
import pytest
from networks import GOLDEN

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.ops import score_blocks
from nonlocal_jax.training.losses import ohem
from nonlocal_jax.training.losses.loss import make_loss

SEEDS = range(1, 101)  # of `make parity`, each with three kinds of labels


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of rows, the last of which is filled up."""
    monkeypatch.setattr(score_blocks, "BLOCK_BYTES", 0)


def options_of(name):
    flat = files.flatten(cases.CASES[name])
    given = {f"loss.{key}": value for key, value in flat.items()}
    return files.load("demo", **given).loss


def program(options):
    """The jitted loss: from logits, labels and align_corners to its value, gradient, kept pixels."""
    loss = make_loss(options)

    def evaluate(logits, labels, align_corners):
        value, gradient = jax.value_and_grad(lambda x: loss(x, labels, align_corners).loss)(logits)
        found = {"loss": value, "gradient": gradient}
        if options.name == "ohem":
            found["kept"] = ohem.hard_pixels(options, logits, labels, align_corners)
        return found

    return jax.jit(evaluate, static_argnums=2)


def check(golden, name, seeds):
    with jax.enable_x64(True):
        evaluate = program(options_of(name))
        for seed in seeds:
            for kind in cases.KINDS:
                found = evaluate(*cases.batch(seed, kind), cases.aligns_corners(seed))
                for key, value in found.items():
                    expected = golden[f"{name}/{kind}/{seed}/{key}"]
                    scale = max(np.abs(expected).max(), 1e-3)
                    error = np.abs(np.asarray(value, np.float64) - expected).max() / scale
                    assert error < 1e-7, f"{name} {kind} {seed} {key}: {error}"


@pytest.mark.parametrize("name", cases.CASES)
def test_equal(name):
    check(np.load(GOLDEN / "losses.npz"), name, [0])
