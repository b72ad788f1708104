"""Makes non_local.npz: the PyTorch reference's non-local block in every form, on small arrays.

Run with the reference's Python, from the repository root:

    PYTHON tests/golden/make_non_local.py SHARED/peer/peer.py tests/golden/non_local.npz
"""

import itertools
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
SHAPES = {1: (2, 13, 8), 2: (2, 7, 9, 8), 3: (2, 3, 5, 7, 8)}  # odd sizes: the pooling drops a row


class Case(NamedTuple):
    """One form of the block."""

    mode: str
    dims: int
    sub_sample: bool
    use_scale: bool

    @property
    def name(self) -> str:
        pooled = "pooled" if self.sub_sample else "full"
        return f"{self.mode}_{self.dims}d_{pooled}_{'scaled' if self.use_scale else 'unscaled'}"


CASES = [Case(*form, True) for form in itertools.product(MODES, (1, 2, 3), (False, True))]
# The scale belongs to embedded_gaussian alone; another mode must not mind the flag.
CASES += [
    Case("embedded_gaussian", dims, pooled, False) for dims, pooled in ((1, True), (2, False))
]
CASES += [Case("gaussian", 2, False, False)]


def run_reference(
    python: str, peer: str, case: Case, x: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """The reference's parameters ('param/KEY') and output ('y') for one input."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "in.npz"), pathlib.Path(folder, "out.npz")
        np.savez(source, x=x, seed=seed)
        command = [python, "-W", "ignore", peer, "nonlocal", case.mode, source, target]
        command += ["--dims", str(case.dims)]
        command += ["--sub-sample"] * case.sub_sample + ["--no-scale"] * (not case.use_scale)
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        with np.load(target) as arrays:
            return {key: value for key, value in arrays.items() if "num_batches" not in key}


def main(peer: str, output: str) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        f"x_{dims}d": generator.standard_normal(shape, dtype=np.float32)
        for dims, shape in SHAPES.items()
    }
    for seed, case in enumerate(CASES):
        result = run_reference(sys.executable, peer, case, arrays[f"x_{case.dims}d"], seed)
        arrays |= {f"{case.name}/{key}": value for key, value in result.items()}
    np.savez_compressed(output, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
