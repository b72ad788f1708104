"""The loss and its gradient against the plain formula: `python benchmarks/loss.py`."""

import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "support"))

import plain

from nonlocal_jax.training.losses.cross_entropy import segmentation_loss

SHAPES = (((2, 64, 64, 150), (512, 512)), ((2, 64, 128, 19), (512, 1024)))
REPETITIONS = 5


def compiled(
    loss: Callable[..., object], logits: np.ndarray, labels: np.ndarray
) -> jax.stages.Compiled:
    """The program of a loss and its gradient."""

    def both(logits: jax.Array, labels: jax.Array) -> object:
        return jax.value_and_grad(lambda x: loss(x, labels, False), has_aux=True)(logits)

    return jax.jit(both).lower(logits, labels).compile()


def main() -> None:
    """Prints a line for each shape and form: milliseconds and megabytes."""
    forms = {"plain": plain.loss_and_accuracy, "ours": segmentation_loss}
    for shape, size in SHAPES:
        rng = np.random.default_rng(0)
        logits = rng.standard_normal(shape, np.float32)
        labels = rng.integers(0, shape[-1], (shape[0], *size), dtype=np.uint8)
        programs = {name: compiled(loss, logits, labels) for name, loss in forms.items()}
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(REPETITIONS + 1):
            for name, program in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(logits, labels))
                times[name].append(time.perf_counter() - start)
        for name, program in programs.items():
            milliseconds = 1e3 * statistics.median(times[name][1:])
            megabytes = program.memory_analysis().temp_size_in_bytes / 1e6
            print(f"{shape} to {size}, {name}: {milliseconds:.0f} ms, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
