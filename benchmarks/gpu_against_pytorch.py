"""This project against the same network in PyTorch, on one GPU, in under eight minutes.

    python benchmarks/gpu_against_pytorch.py --torch_python=ENV/bin/python [--output=FOLDER]
    python benchmarks/gpu_against_pytorch.py --torch_python=ENV/bin/python --smoke

ENV is an environment with PyTorch 2; it may be this one. Every program has a process: they compile
side by side, for five minutes at most, then those of a case run in turn, and medians are compared.
FOLDER gets results.json, and for each of our programs a table of its kernels by what they are for.
`--also NAME=FOLDER` measures another checkout besides, `--flags NAME="XLA_FLAGS"` this one with
other flags of XLA's. `--smoke` runs the same code, all cases, on tiny networks and on any machine.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from processes import HERE, Facts, Program, Worker, compile_all

from nonlocal_jax.config import files

ROWS = ("ade20k_r50_80k", "ade20k_r101_160k")
CASES = ("infer:1", "infer:16", "train:4", "train:16")
# Modes of torch.compile. CUDA graphs are in the second and the third. They save launches, which
# large batches hide, and in training hold on to as much device memory as a step takes.
MODES = {
    "infer:1": ("reduce-overhead", "max-autotune"),
    "infer": ("default", "max-autotune"),
    "train:4": ("default", "reduce-overhead"),
    "train": ("default",),
}
OURS = "ours"
TINY = {
    "model.backbone.stem_channels": 8,
    "model.backbone.base_channels": 8,
    "model.decode_head.channels": 32,
    "model.auxiliary_head.channels": 16,
    "data.crop_size": (65, 97),
}
# Of a smoke test, so that many processes share few cores, and compile quickly.
QUICK = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
SMOKE = {"rounds": 2, "steps": 1, "at_once": os.cpu_count() or 1, "compile_seconds": 1800.0}
# Device memory that PyTorch takes for an image of 512x512 in training, R-50 and R-101.
GIGABYTES = {50: 1.6, 101: 2.5}
TURN = 90.0  # seconds that a program may take for what it is asked to do


def make_case(options: argparse.Namespace, row: str, kind: str, batch: int) -> Facts:
    """What both frameworks' processes are told."""
    path = HERE.parent / f"configs/{row}.py"
    overrides = TINY if options.smoke else {}
    config = files.load(path, **overrides)
    backbone = config.model.backbone
    return {
        "row": row,
        "config": str(path),
        "overrides": overrides,
        "kind": kind,
        "batch": batch,
        "size": config.data.crop_size,
        "classes": config.model.num_classes,
        "align_corners": config.model.align_corners,
        "dtype": "float32" if options.smoke else "auto",
        "weights": str(options.folder / f"{row}.pth"),
        "widths": {
            "depth": backbone.depth,
            "stem": backbone.stem_channels,
            "base": backbone.base_channels,
            "head": config.model.decode_head.channels,
            "auxiliary": config.model.auxiliary_head.channels,
        },
    }


def programs_of(options: argparse.Namespace, row: str, kind: str, batch: int) -> list[Program]:
    """Every program of a case: ours, those of other checkouts and flags, and PyTorch's."""
    case = make_case(options, row, kind, batch)
    return _ours(options, case) + ([] if options.no_torch else _theirs(options, case))


def _ours(options: argparse.Namespace, case: Facts) -> list[Program]:
    # For all processes: so the second row's programs find what the first row's autotuning found.
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(options.folder / "compiled")
    usual = {"JAX_COMPILATION_CACHE_DIR": kept, **(QUICK if options.smoke else {})}
    given = usual.get("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    variants = [(OURS, HERE.parent, ""), *((name, folder, "") for name, folder in options.also)]
    variants += [(name, HERE.parent, flags) for name, flags in options.flags]
    return [
        Program(
            name,
            "jax",
            sys.executable,
            {**case, **_outputs(options, case, name)},
            folder,
            environment={**usual, "XLA_FLAGS": f"{given} {flags}"},
            traced=options.output is not None,
        )
        for name, folder, flags in variants
    ]


def _theirs(options: argparse.Namespace, case: Facts) -> list[Program]:
    kind, batch = case["kind"], case["batch"]
    modes = ("eager",) if options.smoke else MODES.get(f"{kind}:{batch}") or MODES[kind]
    training = batch * GIGABYTES[case["widths"]["depth"]]
    return [
        Program(
            name := f"PyTorch, {mode}",
            "torch",
            options.torch_python,
            {**case, "mode": mode, **_outputs(options, case, name)},
            environment=QUICK if options.smoke else {"TORCHINDUCTOR_COMPILE_THREADS": "4"},
            gigabytes=training if kind == "train" else 2.0,
            last=mode in modes[1:],
        )
        for mode in modes
    ]


def _outputs(options: argparse.Namespace, case: Facts, name: str) -> dict[str, str]:
    """Files for what a program's inference gives; logits at one batch size only."""
    stem = f"{case['row']}-{case['kind']}-{case['batch']}-{name}".replace("/", "_")
    wanted = case["batch"] == 1 and case["kind"] == "infer"
    return {
        "masks": str(options.folder / f"{stem}.masks.npy"),
        "logits": str(options.folder / f"{stem}.logits.npy") if wanted else "",
    }


def measure(options: argparse.Namespace, workers: list[Worker]) -> list[Facts]:
    """The programs of a case, in turn: a record each, which the processes do not outlive."""
    for worker in workers:
        worker.ask("start", TURN)
    for worker in workers:
        worker.ask("run 3", TURN)  # whose time does not count
    seconds: list[list[float]] = [[] for _ in workers]
    for _ in range(options.rounds):
        for worker, times in zip(workers, seconds, strict=True):
            longer = 3 if worker.program.case["kind"] == "infer" else 1
            found = worker.ask(f"run {longer * options.steps}", TURN)
            if "error" not in found:
                times.append(found["seconds"])
    records = []
    for worker, times in zip(workers, seconds, strict=True):
        if worker.program.traced:
            case = worker.program.case
            stem = f"{case['row']}.{case['kind']}{case['batch']}.{worker.program.name}"
            worker.ask(f"trace {options.output / stem}.kernels.json", TURN)
        worker.close()
        records.append(_record(worker, times))
    for record in records[1:]:
        record["against_the_first"] = _compare(records[0], record)
    return records


def _record(worker: Worker, times: list[float]) -> Facts:
    program, facts = worker.program, dict(worker.facts)
    facts.pop("seconds", None)
    keys = ("row", "kind", "batch", "masks", "logits")
    record = {"name": program.name, **{key: program.case[key] for key in keys}, **facts}
    if times:
        record["ms"] = 1e3 * statistics.median(times)
        record["all_ms"] = [round(1e3 * t, 3) for t in times]
    return record


def _compare(first: Facts, other: Facts) -> dict[str, float]:
    """Logits as a share of the largest, masks' agreement, and the first step's losses."""
    found = {}
    if "loss" in first and "loss" in other:
        found["loss"] = abs(first["loss"] - other["loss"]) / abs(other["loss"])
    for kind in ("masks", "logits"):
        files = [pathlib.Path(record[kind]) for record in (first, other)]
        if not all(record[kind] for record in (first, other)) or not all(f.exists() for f in files):
            continue
        ours, theirs = (np.load(file).astype(np.float64) for file in files)
        if kind == "masks":
            found["same_classes"] = float(np.mean(ours == theirs))
        else:
            found["logits"] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return found


def rows_of_table(records: list[Facts]) -> list[str]:
    """Lines of the table; the ratio is to the first program's time: over 1 is slower."""
    lines = []
    for record in records:
        cells = [record["row"], f"{record['kind']} {record['batch']}", record["name"]]
        if "ms" in record:
            ms = record["ms"]
            cells += [
                f"{ms:.2f}",
                f"{ms / record['batch']:.2f}",
                f"{1e3 * record['batch'] / ms:.0f}",
            ]
            cells.append(f"{ms / records[0]['ms']:.2f}" if "ms" in records[0] else "")
            cells.append(f"{record.get('peak_gb', float('nan')):.1f}")
            cells.append(f"{record['compile_seconds']:.0f}")
        differences = record.get("against_the_first", {})
        cells.append(", ".join(f"{key} {value:.3g}" for key, value in differences.items()))
        cells.append(record.get("error", ""))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def kernel_lines(records: list[Facts]) -> list[str]:
    """Kernel times by category, a line for each of our programs."""
    lines = []
    for record in records:
        if record.get("kernels"):
            parts = ", ".join(f"{name} {ms:.2f}" for name, ms in record["kernel_ms"].items())
            head = f"{record['row']} {record['kind']} {record['batch']}, {record['name']}"
            lines.append(f"{head}, ms of kernels: {parts}")
    return lines


def write_weights(options: argparse.Namespace, row: str) -> subprocess.Popen:
    """Starts to write a row's random weights, which PyTorch's processes wait for, on the CPU."""
    overrides = make_case(options, row, "infer", 1)["overrides"].items()
    arguments = ["--weights", str(HERE.parent / f"configs/{row}.py")]
    arguments.append(str(options.folder / f"{row}.pth"))
    arguments += [f"{key}={json.dumps(value)}" for key, value in overrides]
    return subprocess.Popen(
        [sys.executable, str(HERE / "jax_worker.py"), *arguments],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        },
    )


def device_gigabytes() -> float:
    """What the GPU has, less some for its own; without a GPU, no limit."""
    if not shutil.which("nvidia-smi"):
        return float("inf")
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return 0.8 * float(said[0]) / 1024 if said else float("inf")


def has_torch(python: str) -> bool:
    """Whether a Python has PyTorch."""
    if shutil.which(python) is None:
        return False
    done = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    return done.returncode == 0


def run(options: argparse.Namespace) -> list[Facts]:
    """Every row and case; the table goes to the screen, everything to the output folder."""
    cases = [(row, *text.partition(":")[::2]) for row in options.rows for text in options.cases]
    groups = [programs_of(options, row, kind, int(batch)) for row, kind, batch in cases]
    writing = [] if options.no_torch else [write_weights(options, row) for row in options.rows]
    # PyTorch's second modes last; of the others a row after the other, which then finds the first's
    # autotuning results, and what takes longest first.
    rows = list(options.rows)
    order = sorted(
        (program for group in groups for program in group),
        key=lambda p: (
            p.last,
            rows.index(p.case["row"]),
            p.case["kind"] != "train",
            -p.case["batch"],
        ),
    )
    workers = compile_all(
        order,
        options.output or options.folder,
        seconds=options.compile_seconds,
        gigabytes=device_gigabytes(),
        at_once=options.at_once,
    )
    for process in writing:
        process.wait()
    by_program = {id(worker.program): worker for worker in workers}
    columns = ["row", "case", "program", "ms a step", "ms an image", "images/s"]
    columns += ["ratio to the first", "peak GB", "compile s", "outputs against the first", ""]
    print(f"| {' | '.join(columns)} |")
    print(f"|---|---|---|{'--:|' * 6}---|---|")
    results: list[Facts] = []
    for group in groups:
        started = [by_program[id(p)] for p in group if id(p) in by_program]
        records = measure(options, started)
        results += records
        print("\n".join(rows_of_table(records)), flush=True)
        if options.output:
            (options.output / "results.json").write_text(json.dumps(results, indent=1))
    print("\n".join(kernel_lines(results)), flush=True)
    return results


def case(text: str) -> str:
    """KIND:BATCH, checked."""
    kind, _, batch = text.partition(":")
    if kind not in ("infer", "train") or not batch.isdecimal() or not int(batch):
        raise argparse.ArgumentTypeError(f"{text!r} is no case such as infer:1 or train:16")
    return text


def named_folder(text: str) -> tuple[str, pathlib.Path]:
    """NAME=FOLDER: another checkout."""
    name, _, folder = text.partition("=")
    return name, pathlib.Path(folder).resolve()


def named_flags(text: str) -> tuple[str, str]:
    """NAME=XLA_FLAGS."""
    name, _, flags = text.partition("=")
    return name, flags


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measures, and returns the records."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--torch_python", default=sys.executable, help="a Python that has PyTorch")
    add("--no_torch", action="store_true", help="this project alone")
    rows = sorted(file.stem for file in (HERE.parent / "configs").glob("*.py"))
    add("--rows", nargs="+", default=ROWS, choices=rows, metavar="ROW", help="names of configs")
    add("--cases", nargs="+", default=CASES, type=case, help="kind:batch")
    add("--also", nargs="*", type=named_folder, default=[], help="NAME=FOLDER of other checkouts")
    add("--flags", nargs="*", type=named_flags, default=[], help="NAME=XLA_FLAGS, for ours")
    add("--output", type=pathlib.Path, help="a folder for results and tables of kernels")
    add("--rounds", type=int, default=5, help="how often the programs of a case take turns")
    add("--steps", type=int, default=10, help="in one turn")
    add("--compile_seconds", type=float, default=300.0, help="whoever takes longer is left out")
    at_once = max((os.cpu_count() or 1) // 2, 2)
    add("--at_once", type=int, default=at_once, help="how many compile side by side")
    add("--smoke", action="store_true", help="tiny networks: whether the script works")
    if parser.parse_known_args(arguments)[0].smoke:
        parser.set_defaults(**SMOKE)
    options = parser.parse_args(arguments)
    if not options.no_torch and not has_torch(options.torch_python):
        print(f"{options.torch_python} has no PyTorch: only this project is measured.")
        options.no_torch = True
    if options.output:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output={options.output}: {error.strerror}")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = pathlib.Path(folder)
        return run(options)


if __name__ == "__main__":
    main()
