"""I3D R-50 with non-local blocks on clips of 8 x 224 x 224, against PyTorch eager on the same CPU.

    python benchmarks/video_against_pytorch.py --torch_python=ENV/bin/python [--batch=1]

Both have the same random weights, and their logits are compared. The two programs take turns. The
table has the medians of their seconds and of the CPU's, the ratios of these, and the most memory
that each process has held. On a machine that does other work, compare the CPU's seconds.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import tempfile
import time
from typing import Any

import jax
import numpy as np

from nonlocal_jax.checkpoints.caffe2 import exporter
from nonlocal_jax.config import files, schema
from nonlocal_jax.models.fold import fold
from nonlocal_jax.ops.normalize import normalize_clips
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compiler_options
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.tasks import task as tasks

ROW = "kinetics_i3d_nonlocal_8x8"
HERE = pathlib.Path(__file__).resolve().parent


class Ours:
    """The compiled programs of this project, in this process."""

    def __init__(self, batch: int, what: list[str]):
        config = files.load(ROW, **{"batch_size": batch, "model.head.dropout": 0.0})
        self.mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
        task = tasks.of(config)
        network, start = task.network(self.mesh), task.initial_variables()
        rng = np.random.default_rng(0)
        # Zero scales would hide most of the network.
        self.variables = {
            name: np.ones_like(v) if name.endswith("/scale") else np.asarray(v)
            for name, v in start.items()
        }
        self.blobs = exporter.export_checkpoint(self.variables, network, {"lr": np.float32(0.01)})
        clips = rng.integers(0, 256, (batch, 8, 224, 224, 3), dtype=np.uint8)
        self.normalised = np.asarray(normalize_clips(clips))
        if "forward" in what:
            folded, arrays = fold(network, self.variables)
            self.arrays = jax.device_put(arrays)
            forward = jax.jit(lambda v, x: folded.bind_for_inference(v)(x))
            with jax.set_mesh(self.mesh):
                lowered = forward.lower(self.arrays, self.normalised)
            self.forward = lowered.compile(compiler_options("cpu"))
        if "train" in what:
            program = TrainProgram.of(config, self.mesh)
            self.step = program.compile()
            self.state = program.first_state(self.variables)
            labels = np.zeros(batch, np.int32)
            self.batch = sharding.put_batch({"clip": clips, "label": labels}, self.mesh)

    def run(self, what: str) -> dict[str, Any]:
        """Runs once, and says what came out."""
        start, cpu, answer = time.perf_counter(), time.process_time(), {}
        if what == "train":
            self.state, _ = jax.block_until_ready(self.step(self.state, self.batch))
        else:
            logits = jax.block_until_ready(self.forward(self.arrays, self.normalised))
            answer["logits"] = np.asarray(logits)[0, :8].tolist()
        answer["seconds"] = time.perf_counter() - start
        answer["cpu_seconds"] = time.process_time() - cpu
        answer["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return answer


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch_python", required=True, help="a Python with PyTorch")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", nargs="+", default=["forward", "train"])
    options = parser.parse_args()
    ours = Ours(options.batch, options.what)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "blobs.npz"
        np.savez(file, clips=ours.normalised, **{k: np.asarray(v) for k, v in ours.blobs.items()})
        threads = len(os.sched_getaffinity(0))
        command = [options.torch_python, HERE / "torch_video.py", file, str(options.batch)]
        theirs = subprocess.Popen(
            [*command, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert theirs.stdin and theirs.stdout

        def ask(what: str) -> dict[str, Any]:
            assert theirs.stdin and theirs.stdout
            theirs.stdin.write(f"{what}\n")
            theirs.stdin.flush()
            answer: dict[str, Any] = json.loads(theirs.stdout.readline())
            return answer

        print("| what | time | ours s | PyTorch s | ratio | ours GB | PyTorch GB |")
        print("|---|---|--:|--:|--:|--:|--:|")
        for what in options.what:
            first = ours.run(what), ask(what)  # is not counted
            if what == "forward":
                a, b = (np.array(one["logits"]) for one in first)
                np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
            pairs = [(ours.run(what), ask(what)) for _ in range(options.rounds)]
            memory = " | ".join(f"{side['peak_gb']:.2f}" for side in pairs[-1])
            for clock, title in (("seconds", "wall"), ("cpu_seconds", "CPU")):
                mine, other = (
                    statistics.median(pair[side][clock] for pair in pairs) for side in (0, 1)
                )
                ratio = other / mine
                print(f"| {what} | {title} | {mine:.2f} | {other:.2f} | {ratio:.2f} | {memory} |")
        theirs.stdin.close()
        theirs.wait()


if __name__ == "__main__":
    main()
