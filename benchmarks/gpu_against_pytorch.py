"""This project against the same network in PyTorch, on one GPU, in one run.

    python benchmarks/gpu_against_pytorch.py --torch_python=ENV/bin/python [--output=FILE.json]
    python benchmarks/gpu_against_pytorch.py --torch_python=ENV/bin/python --smoke

ENV is an environment with PyTorch 2; it may be this one. `--smoke` runs the same code on a tiny
network, on any machine. Three pairs are timed in every case: each framework's best form (PyTorch:
channels_last, bfloat16 autocast, torch.compile), ours against eager TF32, and float32 on both
sides. The programs of a pair alternate, and medians are compared. The largest training batch, found
by doubling, is measured alone, because two of them fit no device.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from nonlocal_jax.config import command_line

HERE = pathlib.Path(__file__).resolve().parent
ROWS = (
    "ade20k_r50_80k",
    "ade20k_r101_80k",
    "cityscapes_r50_512x1024_40k",
    "cityscapes_r101_512x1024_40k",
)
CASES = ("infer:1", "infer:16", "train:published", "train:largest")
PAIRS = ((("jax", "best"), ("torch", "best")), (("jax", "best"), ("torch", "tf32")))
PAIRS += ((("jax", "fp32"), ("torch", "fp32")),)
TINY = {
    "model.backbone.stem_channels": 8,
    "model.backbone.base_channels": 8,
    "model.decode_head.channels": 32,
    "model.auxiliary_head.channels": 16,
    "data.crop_size": (65, 97),
}
GPUS = 4  # that the published batch was split over


class Worker:
    """One framework's process with one case; `facts` is what it said when it was ready."""

    def __init__(self, options: argparse.Namespace, framework: str, case: dict[str, Any]):
        python = options.torch_python if framework == "torch" else sys.executable
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        preset = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [python, HERE / f"{framework}_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **preset},
        )
        self.facts = self.ask(json.dumps(case))

    def ask(self, line: str | int) -> dict[str, Any]:
        """The answer to a line; {"error": ...} also where the process died."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process ended"}
        for answer in self.process.stdout:
            if answer.startswith("REPLY "):
                return json.loads(answer.removeprefix("REPLY "))
        return {"error": f"the process ended with exit code {self.process.wait()}"}

    def close(self) -> None:
        """Ends the process, which frees the device."""
        self.process.communicate()


def make_case(options: argparse.Namespace, row: str, kind: str, batch: int) -> dict[str, Any]:
    """What both workers are told, but for the form."""
    overrides = TINY if options.smoke else {}
    config = command_line.load_config(HERE.parent / f"configs/{row}.py", **overrides)
    backbone, classes = config.model.backbone, config.model.num_classes
    return {
        "config": str(HERE.parent / f"configs/{row}.py"),
        "overrides": overrides,
        "kind": kind,
        "batch": batch,
        "size": config.data.crop_size,
        "classes": classes,
        "align_corners": config.model.align_corners,
        "widths": {
            "depth": backbone.depth,
            "stem": backbone.stem_channels,
            "base": backbone.base_channels,
            "head": config.model.decode_head.channels,
            "auxiliary": config.model.auxiliary_head.channels,
        },
        "weights": str(options.folder / f"{row}.pth"),
        "backend": options.torch_backend,
        "profile": "",
    }


def measure_pair(
    options: argparse.Namespace, case: dict[str, Any], pair: tuple[tuple[str, str], ...]
) -> list[dict[str, Any]]:
    """Both programs of a pair, alternated: a record each, and how far their outputs differ."""
    workers, records = [], []
    for framework, form in pair:
        logits = str(options.folder / f"{framework}.npy")
        profile = options.profile if (framework, form) == ("jax", "best") else ""
        told = {**case, "form": form, "logits": logits, "profile": profile}
        worker = Worker(options, framework, told)
        workers.append(worker)
        records.append({"framework": framework, "form": form, **worker.facts})
    seconds: list[list[float]] = [[] for _ in workers]
    if not any("error" in record for record in records):
        if len(pair) > 1:
            records[0]["against_the_other"] = compare(options, case["kind"], records)
        for _ in range(options.rounds):
            for worker, times in zip(workers, seconds, strict=True):
                times.append(worker.ask(options.steps).get("seconds", float("nan")))
    for worker, record, times in zip(workers, records, seconds, strict=True):
        worker.close()
        if times:
            record["ms_per_image"] = 1e3 * statistics.median(times) / case["batch"]
    return records


def compare(
    options: argparse.Namespace, kind: str, records: list[dict[str, Any]]
) -> dict[str, float]:
    """Logits (as a share of the largest) and their argmax, or the first step's losses."""
    if kind == "train":
        ours, theirs = (record["loss"] for record in records)
        return {"loss_difference": abs(ours - theirs) / abs(theirs)}
    ours, theirs = (np.load(options.folder / f"{r['framework']}.npy") for r in records)
    return {
        "logit_difference": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
        "same_argmax": float(np.mean(ours.argmax(-1) == theirs.argmax(-1))),
    }


def largest(
    options: argparse.Namespace, row: str, framework: str, batch: int
) -> tuple[int, list[dict[str, Any]]]:
    """The largest batch, by doubling, that a framework's best form trains with, and its record."""
    found: tuple[int, list[dict[str, Any]]] = (0, [{"framework": framework, "error": "none fits"}])
    while batch <= options.largest:
        case = make_case(options, row, "train", batch)
        records = measure_pair(options, case, ((framework, "best"),))
        if "error" in records[0]:
            break
        found, batch = (batch, records), 2 * batch
    return found


def report(options: argparse.Namespace, results: list[dict[str, Any]], new: dict[str, Any]) -> None:
    """Adds a case to the JSON file, and prints its lines of the table."""
    results.append(new)
    options.output.write_text(json.dumps(results, indent=1))
    first = new["records"][0]
    for record in new["records"]:
        cells = [new["row"], new["kind"], str(new["batch"]), record["framework"]]
        cells.append(record.get("form", ""))
        if "ms_per_image" in record:
            ms = record["ms_per_image"]
            cells += [f"{ms:.2f}", f"{1e3 / ms:.1f}", f"{ms / first['ms_per_image']:.2f}"]
            floor = first.get("gflop", float("nan")) / new["batch"] / options.peak_tflops
            cells += [f"{floor / ms:.0%}", f"{record.get('peak_gb', float('nan')):.1f}"]
        print("| " + " | ".join([*cells, record.get("error", "")]) + " |", flush=True)
    if "against_the_other" in first:
        print("  outputs:", first["against_the_other"], flush=True)


def main() -> None:
    """Every row, case and pair; the table goes to the screen, everything to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--torch_python", default=sys.executable, help="a Python that has PyTorch")
    add("--rows", nargs="+", default=ROWS, help="names of configs")
    add("--cases", nargs="+", default=CASES, help="kind:batch; a batch may be a word, as here")
    add("--output", type=pathlib.Path, default=pathlib.Path("gpu_against_pytorch.json"))
    add("--peak_tflops", type=float, default=790.0, help="the device's, in bfloat16")
    add("--rounds", type=int, default=9, help="how often a pair alternates")
    add("--steps", type=int, default=10, help="in one turn")
    add("--largest", type=int, default=256, help="where the doubling ends")
    add("--torch_backend", default="max-autotune", help="mode of torch.compile; or eager")
    add("--profile", default="", help="a folder for traces of our best form")
    add("--smoke", action="store_true", help="a tiny network: whether the script works")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.steps, options.largest = 3, 1, 2
        options.torch_backend, options.rows = "eager", options.rows[:1]
    print("| row | case | batch | framework | form | ms/image | images/s | ratio to the first "
          "| share of the floor | peak GB | |")  # fmt: skip
    print("|---|---|--:|---|---|--:|--:|--:|--:|--:|---|")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = pathlib.Path(folder)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        for row in options.rows:
            published = (
                command_line.load_config(HERE.parent / f"configs/{row}.py").batch_size // GPUS
            )
            for kind, _, size in (text.partition(":") for text in options.cases):
                said = {"row": row, "kind": f"{kind}:{size}" if size == "largest" else kind}
                if size == "largest":
                    start = 1 if options.smoke else published
                    for framework in ("jax", "torch"):
                        batch, records = largest(options, row, framework, start)
                        report(options, results, {**said, "batch": batch, "records": records})
                    continue
                batch = published if size == "published" else int(size)
                case = make_case(options, row, kind, batch)
                for pair in PAIRS:
                    records = measure_pair(options, case, pair)
                    report(options, results, {**said, "batch": batch, "records": records})


if __name__ == "__main__":
    main()
