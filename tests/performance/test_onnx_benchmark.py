"""benchmarks/onnx_runtime.py runs on a tiny network."""

import json
import os
import subprocess
import sys

from conftest import REPOSITORY


def test_both_programs_are_timed():
    script = REPOSITORY / "benchmarks" / "onnx_runtime.py"
    done = subprocess.run(
        [sys.executable, str(script), "--smoke", "--rounds=1"],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["seconds"]) == set(told["cpu_seconds"]) == {"jax", "onnxruntime"}
    assert told["ratio_of_seconds"] > 0
