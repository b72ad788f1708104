"""How fast a config is on this machine, and what it takes:

    python -m nonlocal_jax.benchmark --config=configs/ade20k_r50_80k.py --what=inference,training

Images and labels are random, and so are the weights; speed does not mind. --what=input and
--what=evaluation take the config's own data, from files to batches and to scores. --all_rows
measures all sixteen rows, with as many images a device as were published, beside what was published
for them. Compare figures taken in one run only: machines swing.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from nonlocal_jax import evaluate
from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation import predictor
from nonlocal_jax.evaluation.batching import Batch
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.inputs import loader, sources, timing
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network, init_variables
from nonlocal_jax.performance import flops, steps
from nonlocal_jax.runtime import compilation, sharding
from nonlocal_jax.training import compiled_step
from nonlocal_jax.training.run_log import say, working
from nonlocal_jax.training.step import initial_state

KINDS = ("inference", "training", "input", "evaluation")
PUBLISHED_GPUS = 4  # which shared the batch of every row: the published memory is that of one
# Peak of dense bfloat16 products per second, as published, by jax's name of the device.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One program on this machine.

    Attributes:
      config: name of the row.
      what: "inference" or "training".
      images: a step, over all devices.
      size: height and width of the network's input.
      milliseconds: of a step, median.
      compile_seconds: tracing, lowering and compiling, or reading what an earlier run has kept.
      temporary_bytes: what a device holds beside weights, images and results.
      tflop: of convolutions and products in a step.
      share_of_peak: of the devices' published peak, or None where that is unknown.
    """

    config: str
    what: str
    images: int
    size: tuple[int, int]
    milliseconds: float
    compile_seconds: float
    temporary_bytes: int
    tflop: float
    share_of_peak: float | None

    @property
    def images_per_second(self) -> float:
        """Images a second, over all devices."""
        return self.images / self.milliseconds * 1e3


def inference(
    name: str,
    config: ConfigDict,
    batch_size: int,
    runs: int,
    size: tuple[int, int] | None = None,
) -> Measured:
    """From uint8 images at the test size to their counted masks, as in evaluation, on one device.

    The network sees the whole image, or all windows of a row that slides. `size` (height, width) is
    that of the image and of the network's input; by default they are the benchmark's usual ones.
    """
    config = config.copy_and_resolve_references()
    config.model.auxiliary_head.loss_weight = 0.0
    network = build_network(config.model)
    network, variables = fold(network, init_variables(config.model, 0))
    canvas, seen = (size, size) if size else steps.eval_sizes(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *seen, 3), dtype=np.uint8)
    labels = rng.integers(0, config.model.num_classes, (batch_size, *canvas), dtype=np.uint8)
    batch = Batch(
        (Scaled(jnp.asarray(images), jnp.array([seen] * batch_size, jnp.int32)),),
        jnp.array([canvas] * batch_size, jnp.int32),
        jnp.asarray(labels),
    )
    count = evaluate.counting(network, predictor.protocol(config), config.model.num_classes)
    trace = functools.partial(count.trace, variables, batch, canvas=canvas, padded=False)
    arguments = jax.device_put((variables, batch))

    def find_or_compile() -> jax.stages.Compiled:
        made_from = (config.to_json_best_effort(), seen, canvas, batch_size)
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        return compilation.find_or_compile("benchmark", made_from, mesh, lambda: trace().lower())

    return _measure(name, "inference", find_or_compile, trace, arguments, seen, runs)


def training(name: str, config: ConfigDict, runs: int) -> Measured:
    """Train steps of the config's batch, over all devices."""
    mesh = sharding.make_mesh(**config.mesh)
    network, optimizer = (
        compiled_step.network_on(config, mesh),
        compiled_step.make_optimizer(config),
    )
    rng, crop = np.random.default_rng(0), tuple(config.data.crop_size)
    shape = (config.batch_size, *crop)
    batch: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "label": rng.integers(0, config.model.num_classes, shape, dtype=np.uint8),
        "size": np.array([crop] * config.batch_size, np.int32),
    }
    state = initial_state(network, init_variables(config.model, 0), optimizer)
    state = sharding.place_variables(state, mesh)
    images = sharding.put_batch(batch, mesh)
    step = config, network, optimizer, mesh
    measured = _measure(
        name,
        "training",
        functools.partial(compiled_step.compile_train_step, *step),
        functools.partial(compiled_step.trace_train_step, *step),
        (state, images),
        crop,
        runs,
    )
    return dataclasses.replace(measured, images=config.batch_size)


def input_report(config: ConfigDict, samples: int) -> str:
    """A line for each stage of the input pipeline, and one for the whole of it.

    One thread runs every stage for the same examples, one after the other; then the whole pipeline
    runs as in training.

    Raises:
      UserError: the data set is not there, or an example is bad.
    """
    source = loader.open_source(config, "train")
    lines = [f"{'stage, one thread':<24}{'ms':>8}{'images/s':>12}"]
    if isinstance(source, sources.EncodedSource):  # generated images have no such stages
        crop_size = tuple(config.data.crop_size)
        stages = timing.stage_seconds(source, loader.augmentations(config), crop_size, samples)
        stages["together"] = sum(stages.values())
        lines += [f"{name:<24}{s * 1e3:8.2f}{1 / s:12.0f}" for name, s in stages.items()]
    rate = timing.images_per_second(loader.train_batches(config), samples)
    return "\n".join([*lines, f"whole pipeline, as in training: {rate:.0f} images/s"])


def evaluation_report(name: str, config: ConfigDict, samples: int) -> str:
    """How fast the first `samples` validation images are read, segmented and scored, in a line.

    Raises:
      UserError: the data set is not there, or an image is bad.
    """
    mesh, said = sharding.make_mesh(**config.mesh), [""]
    config = config.copy_and_resolve_references()
    config.model.auxiliary_head.loss_weight = 0.0
    network, variables = fold(
        compiled_step.network_on(config, mesh), init_variables(config.model, config.seed)
    )
    with working(f"{name}: evaluating {samples} images"):
        evaluate.evaluate(
            network,
            sharding.place_variables(variables, mesh),
            config,
            mesh=mesh,
            limit=samples,
            log=said.append,
        )
    return f"{name}, evaluation: {said[-1]}"


def table(measured: list[Measured], published: dict[str, ConfigDict]) -> str:
    """All of it as a Markdown table; the last two columns are MMSegmentation's, on V100s."""
    lines = [
        "| config | what | images | input | ms | images/s | compile s | temporaries GB | TFLOP "
        "| TFLOP/s | of peak | published GB | published fps |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for m in measured:
        row, share = published[m.config], m.share_of_peak
        theirs = row.get("memory_gb" if m.what == "training" else "fps")
        cells = [m.config, m.what, str(m.images), f"{m.size[0]}x{m.size[1]}"]
        cells += [f"{m.milliseconds:.1f}", f"{m.images_per_second:.2f}", f"{m.compile_seconds:.1f}"]
        cells += [f"{m.temporary_bytes / 1e9:.2f}", f"{m.tflop:.3f}"]
        cells += [f"{m.tflop / m.milliseconds * 1e3:.2f}", "" if share is None else f"{share:.0%}"]
        cells += [f"{theirs or ''}", ""] if m.what == "training" else ["", f"{theirs or ''}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures `--config`, or all rows."""
    options = flags.FLAGS
    unknown = set(options.what) - set(KINDS)
    if unknown:
        raise UserError(f"--what has {', '.join(sorted(unknown))}; it may be {', '.join(KINDS)}.")
    size = _parse_size(options.size)
    configs = _rows() if options.all_rows else {command_line.config_name(): command_line.config()}
    measured: list[Measured] = []
    for name, config in configs.items():
        if "inference" in options.what:
            measured.append(inference(name, config, options.batch, options.runs, size))
        if "training" in options.what:
            measured.append(training(name, config, options.runs))
        if "input" in options.what:
            say(input_report(config, options.samples))
        if "evaluation" in options.what:
            say(evaluation_report(name, config, options.samples))
    if measured:
        device = jax.devices()[0].device_kind
        say(f"{jax.device_count()} x {device}, jax {jax.__version__}")
        say(table(measured, {name: config.published for name, config in configs.items()}))
    if options.json:
        content = json.dumps([dataclasses.asdict(m) for m in measured], indent=1)
        try:
            pathlib.Path(options.json).write_text(content + "\n")
        except OSError as error:
            raise UserError(f"{options.json} can't be written: {error.strerror}.") from error


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Height and width from "HEIGHT,WIDTH"; None for None."""
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UserError(f"--size is {text!r}; it must be HEIGHT,WIDTH, e.g. 512,1024.")
    return int(numbers[0]), int(numbers[1])


def _rows() -> dict[str, ConfigDict]:
    """Every config that a published result belongs to, by name, at the published batch a device."""
    paths = sorted(pathlib.Path("configs").glob("[!_]*_*.py"))
    rows = {p.stem: config for p in paths if (config := command_line.load_config(p)).published}
    for config in rows.values():
        config.batch_size = config.batch_size // PUBLISHED_GPUS * jax.device_count()
    if not rows:
        raise UserError("There are no rows in configs/; run this in the repository's folder.")
    return rows


def _measure(
    name: str,
    what: str,
    find_or_compile: Callable[[], jax.stages.Compiled],
    trace: Callable[[], jax.stages.Traced],
    arguments: tuple,
    size: tuple[int, int],
    runs: int,
) -> Measured:
    """Runs a program; what `training` donates is what it returns first."""
    start = time.perf_counter()
    with working(f"{name}: compiling {what}"):
        compiled = find_or_compile()
    compile_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        results = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
        if what == "training":
            arguments = (results[0], arguments[1])
    median = statistics.median(seconds[1:])
    operations = flops.count(trace().jaxpr.jaxpr)
    memory = compiled.memory_analysis()
    assert memory is not None  # CPU, GPU and TPU tell it
    peak = _peak(jax.devices()[0].device_kind)
    devices = jax.device_count() if what == "training" else 1
    return Measured(
        config=name,
        what=what,
        images=len(jax.tree.leaves(arguments[1])[0]),
        size=size,
        milliseconds=median * 1e3,
        compile_seconds=compile_seconds,
        temporary_bytes=memory.temp_size_in_bytes,
        tflop=operations / 1e12,
        share_of_peak=operations / median / peak / devices if peak else None,
    )


def _peak(kind: str) -> float | None:
    """By the longest name that the device's own begins with."""
    known = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(known, key=len)] if known else None


def define_flags() -> None:
    """The command's own flags."""
    listed = ", ".join(KINDS)
    flags.DEFINE_list("what", ["inference", "training"], f"Some of {listed}.")
    flags.DEFINE_integer("batch", 1, "Images a step of inference.", lower_bound=1)
    flags.DEFINE_string("size", None, "HEIGHT,WIDTH of inference, other than the benchmark's own.")
    flags.DEFINE_integer("runs", 5, "Runs after the first, of which the median counts.", 1)
    flags.DEFINE_integer("samples", 200, "Examples of --what=input and evaluation.", lower_bound=1)
    flags.DEFINE_bool("all_rows", False, "Every row of configs/; needs no --config.")
    flags.DEFINE_alias("all-rows", "all_rows")
    flags.DEFINE_string("json", None, "A file for the numbers.")


if __name__ == "__main__":
    define_flags()
    command_line.run(main, needs_config=False)
