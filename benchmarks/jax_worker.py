"""One case in this project: the programs that `predict` and `main` run, on the same weights."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from worker import example, serve

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import torch_file
from nonlocal_jax.checkpoints.pytorch.exporter import export_checkpoint
from nonlocal_jax.checkpoints.pytorch.importer import import_checkpoint
from nonlocal_jax.config import command_line
from nonlocal_jax.evaluation.inference import Protocol, Scaled, class_indices, low_resolution_scores
from nonlocal_jax.models.network import Network
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training import compiled_step
from nonlocal_jax.training.step import initial_state


def prepare(case: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The case's work as a function of how often, and what is known before it is timed."""
    values = case["overrides"].items()
    overrides = {
        **{key: tuple(v) if isinstance(v, list) else v for key, v in values},
        "batch_size": case["batch"],
        "model.decode_head.dropout": 0.0,
        "model.auxiliary_head.dropout": 0.0,
    }
    if case["form"] == "fp32":
        overrides["model.dtype"] = "float32"
        jax.config.update("jax_default_matmul_precision", "highest")
    config = command_line.load_config(case["config"], **overrides)
    mesh = sharding.make_mesh()
    network = compiled_step.network_on(config, mesh)
    variables = _weights(network, case["weights"])
    images, labels = (jax.device_put(array) for array in example(case))
    sizes = jnp.full((case["batch"], 2), jnp.array(case["size"]))
    if case["kind"] == "infer":
        run, facts = _inference(case, network, variables, images, sizes)
    else:
        batch = {"image": images, "label": labels, "size": sizes}
        run, facts = _training(config, network, mesh, variables, batch)
    run(2)
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        facts["peak_gb"] = stats["peak_bytes_in_use"] / 1e9
    if case["profile"]:
        with jax.profiler.trace(case["profile"]):
            run(3)
    return run, {**facts, "device": jax.devices()[0].device_kind}


def _inference(
    case: dict[str, Any],
    network: Network,
    variables: dict[str, jax.Array],
    images: jax.Array,
    sizes: jax.Array,
) -> tuple[Any, dict[str, Any]]:
    height, width = case["size"]
    protocol = Protocol((max(height, width), min(height, width)), case["align_corners"])

    def model_in_eval(variables: dict[str, jax.Array]) -> Any:
        model = network.bind(variables)
        model.eval()
        return model

    def infer(variables: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        scaled = (Scaled(images, sizes),)
        model = model_in_eval(variables)
        scores = low_resolution_scores(
            model, scaled, sizes, (height, width), protocol, padded=False
        )
        return class_indices(scores)

    logits = jax.jit(lambda v, x: model_in_eval(v)(normalize(x)))(variables, images)
    np.save(case["logits"], np.asarray(logits))
    compiled = jax.jit(infer).lower(variables, images).compile()

    def run(times: int) -> None:
        for _ in range(times):
            indices = compiled(variables, images)
        indices.block_until_ready()

    return run, {"gflop": _flops(compiled) / 1e9}


def _training(
    config: Any,
    network: Network,
    mesh: jax.sharding.Mesh,
    variables: dict[str, jax.Array],
    batch: dict[str, jax.Array],
) -> tuple[Any, dict[str, Any]]:
    optimizer = compiled_step.make_optimizer(config)
    compiled = compiled_step.compile_train_step(config, network, optimizer, mesh)
    shardings = jax.tree.map(
        lambda x: x.sharding, compiled_step.abstract_state(network, optimizer, mesh)
    )
    state = jax.device_put(initial_state(network, variables, optimizer), shardings)
    batch = jax.device_put(batch, sharding.batch_sharding(mesh))

    def run(times: int) -> dict[str, float]:
        nonlocal state
        for _ in range(times):
            state, metrics = compiled(state, batch)
        return {"loss": float(metrics["loss"])}

    return run, {**run(1), "gflop": _flops(compiled) / 1e9}


def _weights(network: Network, path: str) -> dict[str, jax.Array]:
    """Those in the PyTorch file, which the first process writes: random, no scale at zero."""
    shapes = {name: leaf.shape for name, leaf in network.shapes.items()}
    if not os.path.exists(path):
        metadata = Metadata(kind="segmentor")
        tree = export_checkpoint(_random(shapes), metadata, shapes, keys=network.torch_keys)
        torch_file.write(pathlib.Path(path), tree)
    tree = torch_file.read(pathlib.Path(path))
    read = import_checkpoint(tree, shapes, keys=network.torch_keys)
    return {name: jnp.asarray(value) for name, value in read.variables.items()}


def _random(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng, variables = np.random.default_rng(1), {}
    for name, shape in shapes.items():
        kind = name.rpartition("/")[2]
        if kind == "kernel":
            value = rng.standard_normal(shape) * np.sqrt(1.4 / np.prod(shape[:-1]))
        elif kind in ("scale", "var"):
            value = rng.uniform(0.5, 1.0, shape)
        else:
            value = rng.uniform(-0.1, 0.1, shape)
        variables[name] = value.astype(np.float32)
    return variables


def _flops(compiled: jax.stages.Compiled) -> float:
    analysis = compiled.cost_analysis() or {}
    return float(analysis.get("flops", float("nan")))


if __name__ == "__main__":
    serve(prepare)
