"""Measures time and memory of a config on this machine.

Images, labels and weights are random, which does not affect the speed.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from nonlocal_jax.config import schema
from nonlocal_jax.config.schema import Config, Published, Run, Size, for_segmentation
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.video.evaluate import VideoEvaluation
from nonlocal_jax.evaluation.video.views import Sizes, ViewProgram
from nonlocal_jax.inputs import sources, timing
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network, init_variables, without_auxiliary_head
from nonlocal_jax.models.video_network import VideoNetwork
from nonlocal_jax.performance import chips, flops, steps
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compile_inference, compiler_options
from nonlocal_jax.runtime.console import working
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.tasks import task as tasks

Variables = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One program on this machine.

    Attributes:
      config: name of the row.
      what: "inference" or "training".
      images: images or clips in a step, over all devices.
      size: height and width of the network's input.
      milliseconds: median time of a step.
      compile_seconds: tracing, lowering, and compiling or reading the cache.
      temporary_bytes: memory of a device besides weights, images and results.
      tflop: operations of convolutions and products in a step.
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
    name: str, config: Run, batch_size: int, runs: int, size: Size | None = None
) -> Measured:
    """Inference as in evaluation, on one device.

    Args:
      name: of the config.
      config: the config.
      batch_size: images, or views of videos, in a step.
      runs: runs after the first.
      size: height and width of images, by default the benchmark's usual ones.

    Raises:
      UserError: the config is of videos, and there is a `size`.
    """
    if isinstance(config, VideoConfig):
        if size is not None:
            raise UserError("--size is for images: set --config.eval.crop_size for videos.")
        return _view_inference(name, config, batch_size, runs)
    return _image_inference(name, for_segmentation(config), batch_size, runs, size)


def _view_inference(name: str, config: VideoConfig, batch_size: int, runs: int) -> Measured:
    """From uint8 views to probabilities."""
    mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
    network, variables = _random_video_network(config, mesh)
    side = config.eval.crop_size
    program = ViewProgram(network, mesh, Sizes(batch_size, config.data.frames, side))
    shape = (batch_size, config.data.frames, side, side, 3)
    views = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    trace = functools.partial(program.trace, variables)
    arguments = variables, sharding.put_images(views, mesh)
    return _measure(name, "inference", trace, _compile, arguments, (side, side), runs)


def _image_inference(
    name: str, config: Config, batch_size: int, runs: int, size: Size | None
) -> Measured:
    """From uint8 images at the test size to their counted masks.

    The network sees the whole image, or all windows of a row that slides. `size` (height, width) is
    that of the image and of the network's input.
    """
    mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
    evaluation, variables = _random_network(config, mesh)
    canvas, seen = (size, size) if size else steps.eval_sizes(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *seen, 3), dtype=np.uint8)
    labels = rng.integers(0, config.model.num_classes, (batch_size, *canvas), dtype=np.uint8)
    batch = EvaluationBatch(
        (Scaled(jnp.asarray(images), jnp.array([seen] * batch_size, jnp.int32)),),
        jnp.array([canvas] * batch_size, jnp.int32),
        jnp.asarray(labels),
    )
    trace = functools.partial(
        evaluation.counting().trace, variables, batch, canvas=canvas, padded=False
    )
    arguments = jax.device_put((variables, batch))
    compile_it = functools.partial(compile_inference, platform=jax.default_backend())
    return _measure(name, "inference", trace, compile_it, arguments, seen, runs)


def training(name: str, config: Run, runs: int) -> Measured:
    """Train steps of the config's batch, over all devices."""
    mesh = sharding.make_mesh(config.mesh)
    task, program = tasks.of(config), TrainProgram.of(config, mesh)
    state = program.first_state(task.initial_variables())
    examples = task.random_batch(np.random.default_rng(0))
    size = next(iter(examples.values())).shape[-3:-1]  # [..., height, width, 3] comes first
    batch = sharding.put_batch(examples, mesh)
    compile_it = functools.partial(_compile, training=True)
    measured = _measure(name, "training", program.trace, compile_it, (state, batch), size, runs)
    return dataclasses.replace(measured, images=config.batch_size)


@dataclasses.dataclass(frozen=True)
class InputRates:
    """How fast the input pipeline of training is.

    Attributes:
      config: name of the row.
      stages: milliseconds of an example in each stage, in order; empty for videos and for images
        that are generated.
      unit: "images" or "clips".
      per_second: examples a second of the whole pipeline.
    """

    config: str
    stages: dict[str, float]
    unit: str
    per_second: float

    def text(self) -> str:
        """A line for each stage, for all of them, and for the whole pipeline."""
        whole = f"whole pipeline, as in training: {self.per_second:.0f} {self.unit}/s"
        if not self.stages:
            return whole
        together = {**self.stages, "together": sum(self.stages.values())}
        rate = f"{self.unit}/s"
        lines = [f"{'stage, one thread':<24}{'ms':>8}{rate:>12}"]
        lines += [f"{name:<24}{ms:8.2f}{1e3 / ms:12.0f}" for name, ms in together.items()]
        return "\n".join([*lines, whole])


def input_rates(name: str, config: Run, samples: int) -> InputRates:
    """Measures the input pipeline.

    One thread runs every stage for the same examples, one after the other; then the whole pipeline
    runs as in training.

    Args:
      name: of the config.
      config: the config.
      samples: how many examples are timed, in the stages and in the pipeline.

    Raises:
      UserError: the data set is not there, or an example is bad.
    """
    task = tasks.of(config)
    stages = _stages(config, samples) if isinstance(config, Config) else {}
    rate = timing.examples_per_second(task.inputs.train_batches(), samples)
    return InputRates(name, stages, task.unit, rate)


def _stages(config: Config, samples: int) -> dict[str, float]:
    inputs = Inputs.of(config)
    source = inputs.open("train")
    if not isinstance(source, sources.EncodedSource):  # generated images have no such stages
        return {}
    seconds = timing.stage_seconds(source, inputs.augmentations(), config.data.crop_size, samples)
    return {stage: value * 1e3 for stage, value in seconds.items()}


def evaluation_report(name: str, config: Run, samples: int) -> str:
    """How fast the first `samples` of the validation split are read and scored, in a line.

    Raises:
      UserError: the data set is not there, or an image is bad.
    """
    mesh, said = sharding.make_mesh(config.mesh), [""]
    evaluation: Evaluation | VideoEvaluation
    if isinstance(config, VideoConfig):
        network, variables = _random_video_network(config, mesh)
        evaluation = VideoEvaluation.of(config, network, mesh)
    else:
        evaluation, variables = _random_network(for_segmentation(config), mesh)
    with working(f"{name}: evaluating {samples} {tasks.of(config).unit}"):
        evaluation.run(sharding.place_variables(variables, mesh), limit=samples, log=said.append)
    return f"{name}, evaluation: {said[-1]}"


def _random_network(config: Config, mesh: jax.sharding.Mesh) -> tuple[Evaluation, Any]:
    """The evaluation of a config with random weights, folded, and those weights."""
    model = without_auxiliary_head(config.model)
    config = dataclasses.replace(config, model=model)
    platform = mesh.devices.flat[0].platform
    network = build_network(model, platform=platform)
    folded, variables = fold(network, init_variables(model, config.seed))
    return Evaluation.of(config, folded, mesh), variables


def _random_video_network(config: VideoConfig, mesh: jax.sharding.Mesh) -> tuple[VideoNetwork, Any]:
    """The network of a config with random weights, folded, and those weights on the mesh."""
    task = tasks.of(config)
    network, variables = fold(cast(VideoNetwork, task.network(mesh)), task.initial_variables())
    return network, sharding.place_variables(variables, mesh)


def table(measured: list[Measured], published: dict[str, Published]) -> str:
    """All of it as a Markdown table; the last two columns are MMSegmentation's, on V100s.

    `published` has what is known of some configs.
    """
    lines = [
        "| config | what | images | input | ms | images/s | compile s | temporaries GB | TFLOP "
        "| TFLOP/s | of peak | published GB | published fps |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for m in measured:
        row, share = published.get(m.config, Published()), m.share_of_peak
        theirs = row.memory_gb if m.what == "training" else row.fps
        cells = [m.config, m.what, str(m.images), f"{m.size[0]}x{m.size[1]}"]
        cells += [f"{m.milliseconds:.1f}", f"{m.images_per_second:.2f}", f"{m.compile_seconds:.1f}"]
        cells += [f"{m.temporary_bytes / 1e9:.2f}", f"{m.tflop:.3f}"]
        cells += [f"{m.tflop / m.milliseconds * 1e3:.2f}", "" if share is None else f"{share:.0%}"]
        cells += [f"{theirs or ''}", ""] if m.what == "training" else ["", f"{theirs or ''}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _compile(lowered: jax.stages.Lowered, *, training: bool = False) -> jax.stages.Compiled:
    return lowered.compile(compiler_options(jax.default_backend(), training=training))


def _measure(
    name: str,
    what: str,
    trace: Callable[[], jax.stages.Traced],
    compile_it: Callable[[jax.stages.Lowered], jax.stages.Compiled],
    arguments: tuple[Any, ...],
    size: Size,
    runs: int,
) -> Measured:
    """Runs a program. In training, its first result replaces the donated state."""
    device = jax.devices()[0]
    start = time.perf_counter()
    with working(f"{name}: compiling {what}"):
        traced = trace()
        compiled = compile_it(traced.lower())
    compile_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        results = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
        if what == "training":
            arguments = (results[0], arguments[1])
    median = statistics.median(seconds[1:])
    operations = flops.count(traced.jaxpr.jaxpr)
    memory = compiled.memory_analysis()
    assert memory is not None  # known on CPU, GPU and TPU
    peak = chips.peak(device.device_kind)
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
