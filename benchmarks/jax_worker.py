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
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from worker import Facts, Work, example, serve

from nonlocal_jax import api, cli, compilation, programs, sharding
from nonlocal_jax.convert import torch_file
from nonlocal_jax.convert.exporter import export_checkpoint
from nonlocal_jax.inference import Scaled
from nonlocal_jax.models.build import build_network
from nonlocal_jax.models.fold import fold
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.train_step import initial_state

VARIANT = "v1c"
Variables = dict[str, np.ndarray]


def prepare(case: Facts) -> Work:
    """The case's program, compiled; nothing of it is on the device yet."""
    config = load(case["config"], case["overrides"], case["batch"])
    if case["dtype"] != "auto":
        with config.unlocked():
            config.model.dtype = case["dtype"]
    if case["keep"]:
        compilation.keep_programs(case["keep"])
    images, labels = example(case)
    if case["kind"] == "infer":
        return _inference(case, config, images)
    return _training(config, images, labels)


def load(path: str, overrides: dict[str, Any], batch: int) -> ConfigDict:
    """A row's config without dropout, whose numbers no two frameworks share."""
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()}
    dropout = dict.fromkeys(("model.decode_head.dropout", "model.auxiliary_head.dropout"), 0.0)
    return cli.load_config(path, batch_size=batch, **dropout, **plain)


def random_variables(config: ConfigDict) -> Variables:
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


def _inference(case: Facts, config: ConfigDict, images: np.ndarray) -> Work:
    """The program of `Predictor.predict`, batch norms folded, for a batch of this size."""
    variables = random_variables(config)
    model = config.model.copy_and_resolve_references()
    model.auxiliary_head.loss_weight = 0.0
    network, folded = fold(
        build_network(model),
        {k: v for k, v in variables.items() if not k.startswith("auxiliary_head/")},
    )
    predictor = api.Predictor(network, folded, config)
    sizes = np.full((len(images), 2), case["size"], np.int32)
    arguments = jax.device_put((predictor._variables, (Scaled(images, sizes),), sizes))
    compiled, facts = _compiled(
        lambda: predictor._segment.lower(*arguments, canvas=tuple(case["size"]))
    )

    def start() -> Facts:
        np.save(case["masks"], np.asarray(compiled(*arguments)))
        return _memory()

    def run(times: int) -> None:
        for _ in range(times):
            masks = compiled(*arguments)
        masks.block_until_ready()

    if case["logits"]:
        of_images = jax.jit(lambda v, x: network.bind_for_inference(v)(normalize(x)))
        np.save(case["logits"], np.asarray(of_images(arguments[0], images)))
    return Work(facts, start, run, lambda file: _trace(file, compiled, lambda: run(5), 5))


def _training(config: ConfigDict, images: np.ndarray, labels: np.ndarray) -> Work:
    """The program of `main`."""
    mesh = sharding.make_mesh()
    network, optimizer = programs.network_on(config, mesh), programs.make_optimizer(config)
    step = config, network, optimizer, mesh
    begin, busy = time.perf_counter(), time.process_time()
    compiled = programs.compile_train_step(*step)
    facts = _facts(compiled, begin, busy)
    variables = random_variables(config)
    sizes = np.full((len(images), 2), images.shape[1:3], np.int32)
    state: Any = None
    batch: Any = None

    def start() -> Facts:
        nonlocal state, batch
        first = initial_state(network, jax.tree.map(jnp.asarray, variables), optimizer)
        state = sharding.place_variables(first, mesh)
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
    compiled = lower().compile()
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
    torch_file.write(pathlib.Path(file), export_checkpoint(variables, {}, shapes, variant=VARIANT))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--weights"]:
        write_weights(*sys.argv[2:])
    else:
        serve(prepare)
