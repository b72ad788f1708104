"""Evaluation against the PyTorch reference's loop, end to end on the same CPU.

    python benchmarks/evaluation.py --reference-python=PYTHON --shared=FOLDER [--limit=16]
    python benchmarks/evaluation.py --reference-python=PYTHON --shared=FOLDER --large [--tta]

FOLDER holds `peer/peer.py`, `camvid/` and `voc_sample/`; PYTHON has the reference (docs/parity.md).

The first evaluates a set of photographs of mixed sizes (200, or --limit) by both programs in
turn, --rounds times, and prints the ratio of their median times. Files are read, decoded, resized,
segmented and scored; one more evaluation, before them, compiles. The second segments one image of
1024x2048 in a process of its own each, and prints its seconds and its peak memory; with --tta also
at every scale up to 1.75 and mirrored, by ours alone (the reference does not fit into 24 GiB).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from PIL import Image

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.pytorch import convert
from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Config
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.runtime import sharding

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MIXED_ROW, LARGE_ROW = "ade20k_r50_80k", "cityscapes_r50_512x1024_40k"
SIDES = (240, 480)  # between which the photographs' shorter sides are drawn


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference's programs, and a random checkpoint of a row in both forms."""

    python: str
    shared: pathlib.Path
    folder: pathlib.Path
    row: str

    @property
    def peer(self) -> pathlib.Path:
        """The program that drives the reference."""
        return self.shared / "peer" / "peer.py"

    def make_checkpoints(self) -> None:
        """Writes random.pth and, converted, the folder `checkpoint`."""
        config = files.load(self.row)
        stem = pathlib.PurePath(config.published.url).parent.name
        file = self.folder / "random.pth"
        init = [self.python, "-W", "ignore", str(self.peer), "init", stem, str(file)]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        target = convert.config_target(config, self.row)
        convert.import_(target, str(file), self.folder / "checkpoint")

    def loop(self, *options: str) -> list[str]:
        """The command that evaluates the set in `folder`."""
        config = files.load(self.row)
        stem = pathlib.PurePath(config.published.url).parent.name
        driver = REPOSITORY / "tests" / "golden" / "reference_evaluate.py"
        paths = [self.peer, stem, self.folder / "random.pth", self.folder, self.folder / "out.npz"]
        scale = f"--scale={config.eval.scale[0]},{config.eval.scale[1]}"
        words = [self.python, "-W", "ignore", driver, *paths, scale, *options]
        return [str(part) for part in words]


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference-python", required=True)
    parser.add_argument("--shared", required=True, type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--tta", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = LARGE_ROW if args.large else MIXED_ROW
        reference = Reference(args.reference_python, args.shared, pathlib.Path(folder), row)
        reference.make_checkpoints()
        if args.large:
            compare_large(reference, args.tta)
        else:
            compare_mixed(reference, args.limit, args.rounds)


def compare_mixed(reference: Reference, count: int, rounds: int) -> None:
    """Alternates both programs over a set of photographs, and prints their medians."""
    config = folder_config(reference)
    photographs(reference, count, config.model.num_classes)
    evaluation, variables = restored(reference, config)
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    loop = subprocess.Popen(
        reference.loop("--serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert loop.stdin and loop.stdout
    # Compiling overlaps with the image before, so that its time can't be taken off a round's.
    said: list[str] = []
    evaluation.run(variables, log=said.append)
    programs = sum(line.startswith("Compiling") for line in said)
    print(f"{programs} programs; {said[-1]}", flush=True)
    for number in range(rounds):
        start = time.perf_counter()
        evaluation.run(variables, log=lambda _: None)
        seconds["ours"].append(time.perf_counter() - start)
        loop.stdin.write("\n")
        loop.stdin.flush()
        seconds["reference"].append(float(loop.stdout.readline()))
        ours, theirs = (seconds[name][-1] for name in seconds)
        print(f"round {number + 1}: ours {ours:.1f} s, reference {theirs:.1f} s", flush=True)
    loop.stdin.close()
    loop.wait()
    ours, theirs = (statistics.median(values) for values in seconds.values())
    print(
        f"{count} images: ours {count / ours:.3f} images/s, reference {count / theirs:.3f}; "
        f"ratio of medians {theirs / ours:.2f}"
    )


def compare_large(reference: Reference, tta: bool) -> None:
    """One 1024x2048 image in a process of its own each: seconds and peak memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    image = Image.fromarray(pixels).resize((2048, 1024), Image.Resampling.BICUBIC)
    write_set(reference.folder, {"0": (image, Image.new("L", image.size))}, 19)
    ours = [sys.executable, "-c", OURS, str(REPOSITORY), str(reference.folder), reference.row]
    if tta:
        report("ours, ms+flip", [*ours, "tta"], runs=1)
        return
    report("ours", ours, runs=2)
    report("reference", reference.loop("--serve"), runs=2)


# What takes a line and prints the seconds of an evaluation, as the reference's loop does.
OURS = """
import sys, time
sys.path.insert(0, sys.argv[1])
import pathlib, re
from benchmarks import evaluation as benchmark
reference = benchmark.Reference("", pathlib.Path(), pathlib.Path(sys.argv[2]), sys.argv[3])
config = benchmark.folder_config(reference)
evaluation, variables = benchmark.restored(reference, config, tta=sys.argv[4:] == ["tta"])
for _ in sys.stdin:
    said, start = [], time.perf_counter()
    evaluation.run(variables, log=said.append)
    compiling = float(re.findall(r"([\\d.]+) s of compiling", said[-1])[0])
    print(time.perf_counter() - start - compiling, flush=True)
"""


def restored(
    reference: Reference, config: Config, tta: bool = False
) -> tuple[Evaluation, dict[str, jax.Array]]:
    """The evaluation of the checkpoint in `reference.folder`, and its variables."""
    checkpoint = restore(locate.find(reference.folder / "checkpoint"), config)
    mesh = sharding.make_mesh(config.mesh)
    variables = jax.device_put(checkpoint.variables, sharding.replicated(mesh))
    return Evaluation.of(config, checkpoint.network, mesh, tta=tta), variables


def report(name: str, words: list[str], *, runs: int) -> None:
    """Runs a program that prints the seconds of an evaluation for every line that it is given."""
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    process.stdin.write("\n" * runs)
    process.stdin.close()
    seconds = [float(line) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    peak = usage.ru_maxrss / 2**20
    print(f"{name}: {min(seconds):.1f} s, peak resident memory {peak:.2f} GiB", flush=True)


def folder_config(reference: Reference) -> Config:
    """The row's config, for the set in `reference.folder`."""
    own = {"data.name": "folder", "data_dir": str(reference.folder)}
    return files.load(reference.row, **own)


def photographs(reference: Reference, count: int, classes: int) -> None:
    """A set of real photographs with their labels, resized to random sizes and aspects."""
    shared, rng, examples = reference.shared, np.random.default_rng(0), {}
    voc, camvid = shared / "voc_sample", shared / "camvid"
    pairs = [(p, voc / "SegmentationClass") for p in sorted((voc / "JPEGImages").glob("*.jpg"))]
    images = sorted((camvid / "images" / "val").glob("*.jpg"))
    pairs += [(path, camvid / "labels" / "val") for path in images]
    for index in range(count):
        path, labels = pairs[index % len(pairs)]
        short = int(rng.integers(*SIDES))
        size = [short, int(short * rng.uniform(1, 1.6))]
        size = (size[1], size[0]) if rng.random() < 0.75 else (size[0], size[1])
        label = Image.open(labels / f"{path.stem}.png").resize(size, Image.Resampling.NEAREST)
        examples[f"{index:03}"] = (Image.open(path).resize(size), label)
    write_set(reference.folder, examples, classes)


def write_set(
    root: pathlib.Path, examples: dict[str, tuple[Image.Image, Image.Image]], classes: int
) -> None:
    """A validation split in the layout that both programs read."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    described = {"classes": [f"class {i}" for i in range(classes)]}
    described["palette"] = [[i, i, i] for i in range(classes)]
    (root / "classes.json").write_text(json.dumps(described))
    for name, (image, label) in examples.items():
        image.save(root / "images" / "val" / f"{name}.png")
        label.save(root / "labels" / "val" / f"{name}.png")


if __name__ == "__main__":
    main()
