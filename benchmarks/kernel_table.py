"""Where a GPU's time goes: the kernels of a traced program, by what they are for.

A trace names kernels; the compiled program's text says from which line of source each came.
"""

import collections
import json
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

NAME_LENGTH = 90
PARENT = "parent_frame_id"  # printed as one more than the number of the frame; 1 is none
CATEGORIES = (
    "convolutions, forward",
    "convolutions, input gradient",
    "convolutions, weight gradient",
    "1x1 products",
    "attention",
    "loss",
    "readout",
    "norms and the rest",
)
REST = CATEGORIES[-1]
# By the name of a library's kernel, or of the instruction that calls it; the first that fits.
BY_NAME = (
    (r"sdpa|fmha|flash", "attention"),
    (r"wgrad|bw[-_]filter|backward_?filter", CATEGORIES[2]),
    (r"dgrad|bw[-_]input|backward_?(data|input)", CATEGORIES[1]),
    (r"fprop|convolve|cudnn[-_]conv|conv_fusion", CATEGORIES[0]),
    (r"nvjet|gemm|cublas|cutlass|dot_fusion|fusion_dot", "1x1 products"),
)
# By the path of the source in the package, from the innermost call outwards; the first that fits.
BY_SOURCE = (
    (r"loss|cross_entropy", "loss"),
    (r"inference|readout", "readout"),
    (r"attention|flash", "attention"),
    (r"dilated", CATEGORIES[2]),
    (r"^models/|normalize|batch_norm|residual|pool|optimizers|training/step|optax", REST),
)


class Kernel(NamedTuple):
    """All launches of one kernel by one instruction: times and microseconds are those of a step."""

    instruction: str
    name: str
    times: float
    microseconds: float
    category: str


def record(run: Callable[[], None], steps: int, program: str) -> list[Kernel]:
    """Traces `run`, which does so many steps of a program, whose text is `compiled.as_text()`."""
    import jax  # here, so that a table can be read without it

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = options.host_tracer_level = 0  # the device alone
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        return table(launches(pathlib.Path(folder)), steps, program)


def launches(folder: pathlib.Path) -> Iterable[tuple[str, str, float]]:
    """Instruction, kernel and nanoseconds of every launch on a GPU in a trace's folder."""
    from jax.profiler import ProfileData

    for file in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:GPU"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):  # others repeat the same time
                    continue
                for event in line.events:
                    about = {name: value for name, value in event.stats}
                    yield str(about.get("hlo_op", "")), event.name, event.duration_ns


def table(found: Iterable[tuple[str, str, float]], steps: int, program: str) -> list[Kernel]:
    """A row for each kernel and instruction, the longest first."""
    sources, times = _sources(program), collections.defaultdict(list)
    for instruction, name, nanoseconds in found:
        times[instruction, name[:NAME_LENGTH]].append(nanoseconds)
    rows = [
        Kernel(*key, len(ns) / steps, sum(ns) / steps / 1e3, category(*key, sources))
        for key, ns in times.items()
    ]
    return sorted(rows, key=lambda row: -row.microseconds)


def category(instruction: str, name: str, sources: dict[str, list[str]]) -> str:
    """What a kernel is for."""
    known = sources.get(_plain(instruction)) or sources.get(_plain(name)) or [name]
    by_source = _by_source(known)
    if by_source in ("loss", "readout", "attention"):
        return by_source
    # Products that no tensor core may round, and Pallas's kernels where the text names none.
    if ("f32f32_f32f32" in name and "ffma" in name) or name == "kernel":
        trains = any(_by_source(paths) == "loss" for paths in sources.values())
        return "loss" if trains else "readout"
    text = f"{instruction} {name}".lower()
    by_name = next((of for pattern, of in BY_NAME if re.search(pattern, text)), None)
    return by_name or by_source or REST


def by_category(kernels: Iterable[Kernel]) -> dict[str, float]:
    """Milliseconds a step of every category that takes any, and of all."""
    sums: dict[str, float] = collections.Counter()
    for kernel in kernels:
        sums[kernel.category] += kernel.microseconds / 1e3
    found = {name: round(sums[name], 3) for name in CATEGORIES if name in sums}
    return {**found, "all": round(sum(sums.values()), 3)}


def to_json(kernels: Iterable[Kernel]) -> str:
    """Rows of instruction, kernel, times a step, microseconds a step, and category."""
    rows = [
        json.dumps([k.instruction, k.name, round(k.times, 2), round(k.microseconds, 1), k.category])
        for k in kernels
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _by_source(paths: list[str]) -> str | None:
    return next(
        (of for path in paths for pattern, of in BY_SOURCE if re.search(pattern, path)), None
    )


def _sources(program: str) -> dict[str, list[str]]:
    """For every instruction, by its plain name, the source files it came from, innermost first."""
    tables = {name: _numbered(program, name) for name in ("FileNames", "FileLocations")}
    files = {key: _in_package(text.strip('"')) for key, text in tables["FileNames"].items()}
    locations = {
        key: files.get(_number(text, "file_name_id"), "")
        for key, text in tables["FileLocations"].items()
    }
    frames = {
        key: (locations.get(_number(text, "file_location_id"), ""), _number(text, PARENT) - 1)
        for key, text in _numbered(program, "StackFrames").items()
    }

    def stack(frame: int) -> list[str]:
        paths: list[str] = []
        while frame in frames:
            path, frame = frames[frame]
            paths.append(path)
        return paths

    inside, found = collections.defaultdict(list), {}
    computation = ""
    for line in program.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = opened.group(1)
        instruction = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line)
        if not instruction:
            continue
        name, rest = instruction.groups()
        paths = stack(_number(rest, "stack_frame_id"))
        if direct := re.search(r'source_file="([^"]*)"', rest):
            paths = [_in_package(direct.group(1))]
        if " constant(" not in rest:
            inside[computation].append(paths)
        # A fusion is what most of its instructions are.
        if called := re.search(r" fusion\(.*calls=%?([\w.\-]+)", rest):
            paths = _most(inside[called.group(1)]) or paths
        if paths:
            found.setdefault(_plain(name), paths)
            if "triton" in rest and (kernel := re.search(r"\bname\W+(\w+)", rest)):
                found.setdefault(_plain(kernel.group(1)), paths)
    return found


def _most(stacks: list[list[str]]) -> list[str]:
    """One of the call stacks of the category that most of them have."""
    votes = collections.Counter(filter(None, map(_by_source, stacks)))
    wanted = votes.most_common(1)[0][0] if votes else None
    return next((paths for paths in stacks if _by_source(paths) == wanted), [])


def _numbered(program: str, title: str) -> dict[int, str]:
    """The lines "NUMBER text" under a title of the program's text."""
    match = re.search(rf"^{title}\n((?:\d+ .*\n)*)", program, re.MULTILINE)
    lines = match.group(1).splitlines() if match else []
    return {int(number): text for number, _, text in (line.partition(" ") for line in lines)}


def _number(text: str, name: str) -> int:
    match = re.search(rf"\b{name}=(\d+)", text)
    return int(match.group(1)) if match else -1


def _in_package(path: str) -> str:
    """Empty for other packages' files, but optax's."""
    if "/optax/" in path:
        return "optax"
    return path.rpartition("nonlocal_jax/")[2] if "nonlocal_jax/" in path else ""


def _plain(name: str) -> str:
    return re.sub(r"[.\-]", "_", name)
