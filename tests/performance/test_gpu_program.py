"""Programs compiled for an H200 ahead of time, where JAX's CUDA plugin is installed."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
INHERITED = ("JAX_PLATFORMS", "XLA_FLAGS")  # conftest's, which are for a CPU
pytestmark = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, PLUGINS)),
    reason="no CUDA plugin of JAX here: pip install jax-cuda12-plugin jax-cuda12-pjrt",
)


def compiled(*arguments):
    """How many kernels there are of each kind; how long all take; the numbers below the table."""
    environment = {k: v for k, v in os.environ.items() if k not in INHERITED}
    environment |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "PYTHONPATH": str(REPOSITORY)}
    script = str(REPOSITORY / "benchmarks" / "gpu_program.py")
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"(\S.*?) +(\d+) +([\d.]+) GB +([\d.]+) ms", done.stdout)
    counts = {name: int(count) for name, count, *_ in rows}
    facts = {name: int(number) for name, number in re.findall(r"(.*): (\d+)\n", done.stdout)}
    return counts, float(rows[-1][3]), facts


def check(counts, facts, kernels):
    """`kernels` are Pallas's: of the readout, or of the loss."""
    assert counts["custom-call __gpu$xla.gpu.triton"] == kernels
    assert facts["loops"] == 0 and facts["float32 products of highest precision"] == 0


def test_inference_of_16_images():
    counts, milliseconds, facts = compiled("--kind=infer", "--batch=16")
    check(counts, facts, kernels=1)
    assert counts["custom-call __cudnn$fmhaSoftmax"] == 1
    # Three convolutions of each of 16 blocks, and three of the stem.
    assert facts["closed by a ReLU inside of a convolution"] >= 51
    assert milliseconds < 3.5  # what is moved alone, at 4.3 TB/s


def test_a_train_step_of_16_images():
    counts, milliseconds, facts = compiled("--kind=train", "--batch=16")
    check(counts, facts, kernels=4)
    assert milliseconds < 30
