"""One case in this project: the programs that `predict` and `main` run, on random weights.

    python benchmarks/jax_worker.py --weights CONFIG.py FILE.pth [KEY=JSON ...]

writes those weights for PyTorch, and ends.
"""

import json
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from worker import Facts, Work, example, serve

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.checkpoints.pytorch.exporter import export_checkpoint
from nonlocal_jax.config import files, schema
from nonlocal_jax.config.schema import Config
from nonlocal_jax.evaluation import programs
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network, without_auxiliary_head
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compile_inference
from nonlocal_jax.training.compiled_step import TrainProgram

Variables = dict[str, np.ndarray]


def prepare(case: Facts) -> Work:
    """The case's program, compiled; nothing of it is on the device yet."""
    config = load(case["config"], case["overrides"], case["batch"])
    config = files.override(config, **{"model.dtype": case["dtype"]})
    images, labels = example(case)
    if case["kind"] == "infer":
        return _inference(case, config, images)
    return _training(config, images, labels)


def load(path: str, overrides: dict[str, Any], batch: int) -> Config:
    """A row's config without dropout, whose numbers no two frameworks share."""
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()}
    dropout = dict.fromkeys(("model.decode_head.dropout", "model.auxiliary_head.dropout"), 0.0)
    return files.load(path, batch_size=batch, **dropout, **plain)


def random_variables(config: Config) -> Variables:
    """The same weights in every process; no scale is zero, which would hide its block."""
    rng, variables = np.random.default_rng(1), {}
    for name, leaf in sorted(build_network(config.model).shapes.items()):
        kind = name.rpartition("/")[2]
        if kind == "kernel":
            value = rng.standard_normal(leaf.shape) * np.sqrt(1.4 / np.prod(leaf.shape[:-1]))
        elif kind in ("scale", "var"):
            value = rng.uniform(0.5, 1.0, leaf.shape)
        else:
            value = rng.uniform(-0.1, 0.1, leaf.shape)
        variables[name] = value.astype(np.float32)
    return variables


def _inference(case: Facts, config: Config, images: np.ndarray) -> Work:
    """The program of `Predictor.predict`, batch norms folded, for a batch of this size."""
    variables = random_variables(config)
    network, folded = fold(
        build_network(without_auxiliary_head(config.model)),
        {k: v for k, v in variables.items() if not k.startswith("auxiliary_head/")},
    )
    segment = programs.segmenting(
        network, Protocol.of(config.eval, config.model.align_corners), probabilities=False
    )
    sizes = np.full((len(images), 2), case["size"], np.int32)
    labels = np.zeros(images.shape[:3], np.uint8)
    batch = EvaluationBatch((Scaled(images, sizes),), sizes, labels)
    arguments = jax.device_put((folded, batch))
    compiled, facts = _compiled(
        lambda: segment.lower(*arguments, canvas=tuple(case["size"]), padded=False)
    )

    def start() -> Facts:
        np.save(case["masks"], np.asarray(compiled(*arguments).masks))
        return _memory()

    def run(times: int) -> None:
        for _ in range(times):
            result = compiled(*arguments)
        jax.block_until_ready(result)

    if case["logits"]:
        of_images = jax.jit(lambda v, x: network.bind_for_inference(v)(normalize(x)))
        np.save(case["logits"], np.asarray(of_images(arguments[0], images)))
    return Work(facts, start, run, lambda file: _trace(file, compiled, lambda: run(5), 5))


def _training(config: Config, images: np.ndarray, labels: np.ndarray) -> Work:
    """The program of `main`."""
    mesh = sharding.make_mesh(schema.Mesh())
    program = TrainProgram.of(config, mesh)
    begin, busy = time.perf_counter(), time.process_time()
    compiled = program.compile()
    facts = _facts(compiled, begin, busy)
    variables = random_variables(config)
    sizes = np.full((len(images), 2), images.shape[1:3], np.int32)
    state: Any = None
    batch: Any = None

    def start() -> Facts:
        nonlocal state, batch
        state = program.first_state(variables)
        batch = sharding.put_batch({"image": images, "label": labels, "size": sizes}, mesh)
        state, metrics = compiled(state, batch)
        return {"loss": float(metrics["loss"]), **_memory()}

    def run(times: int) -> None:
        nonlocal state
        for _ in range(times):
            state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    return Work(facts, start, run, lambda file: _trace(file, compiled, lambda: run(5), 5))


def _compiled(lower: Any) -> tuple[jax.stages.Compiled, Facts]:
    begin, busy = time.perf_counter(), time.process_time()
    compiled = compile_inference(lower(), jax.default_backend())
    return compiled, _facts(compiled, begin, busy)


def _facts(compiled: jax.stages.Compiled, begin: float, busy: float) -> Facts:
    """Of a program that has just been compiled: `busy` is the process's time before it was."""
    took, busy = time.perf_counter() - begin, time.process_time() - busy
    memory, device = compiled.memory_analysis(), jax.devices()[0].device_kind
    needs = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    needs += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "device": device,
        "version": f"jax {jax.__version__}",
        "compile_seconds": took,
        "compile_cpu_seconds": busy,
        "program_gb": needs / 1e9,
    }


def _memory() -> Facts:
    stats = jax.devices()[0].memory_stats() or {}
    found = stats.get("peak_bytes_in_use")
    return {} if found is None else {"peak_gb": found / 1e9}


def _trace(file: str, compiled: jax.stages.Compiled, run: Any, steps: int) -> Facts:
    import kernel_table  # a checkout that is measured beside this one may not have it

    kernels = kernel_table.record(run, steps, compiled.as_text())
    pathlib.Path(file).write_text(kernel_table.to_json(kernels))
    return {"kernel_ms": kernel_table.by_category(kernels), "kernels": len(kernels)}


def write_weights(config: str, file: str, *overrides: str) -> None:
    """Writes `random_variables` as the PyTorch file of a config."""
    pairs = (text.partition("=") for text in overrides)
    loaded = load(config, {key: json.loads(value) for key, _, value in pairs}, 1)
    variables = random_variables(loaded)
    shapes = {name: value.shape for name, value in variables.items()}
    keys = build_network(loaded.model).torch_keys
    tree = export_checkpoint(variables, Metadata(kind="segmentor"), shapes, keys=keys)
    partial = pathlib.Path(f"{file}.partial")
    torch_file.write(partial, tree)
    partial.rename(file)  # others wait for it, and read it when it is there


if __name__ == "__main__":
    if sys.argv[1:2] == ["--weights"]:
        write_weights(*sys.argv[2:])
    else:
        serve(prepare)
