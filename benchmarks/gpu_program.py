"""What a train or an inference program does on a GPU that need not be here.

    JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python benchmarks/gpu_program.py [TARGET] --kind=infer

compiles it ahead of time for an H200, or for the GPU that the file TARGET describes (XLA's
GpuTargetConfigProto, as text). It prints how many kernels there are of each kind, what they move
and compute, and how long that takes at least, at --bandwidth and --peak. Then it counts what a fast
program has none of (loops, float32 products of highest precision), and convolutions that end with
their ReLU. It needs JAX's CUDA plugin, but neither a GPU nor CUDA's libraries.
"""

import argparse
import collections
import math
import pathlib
import re
from typing import NamedTuple

import jax
import numpy as np
from jax._src import xla_bridge
from jax._src.cudnn import fused_attention_stablehlo as attention
from jax.experimental import topologies

from nonlocal_jax.config import files, schema
from nonlocal_jax.evaluation import programs
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.network import build_network, without_auxiliary_head
from nonlocal_jax.performance import hlo
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.compilation import compile_inference, compiler_options
from nonlocal_jax.training.compiled_step import TrainProgram

CONTRACTED = r'lhs_contracting_dim\w+"?[=:][{\[]"?(\d+)"?[}\]]'
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", *hlo.FREE}


def device(target: pathlib.Path) -> jax.Device:
    """The GPU that a file describes. It must be one that cuDNN has attention for.

    JAX asks the GPU and the libraries that are here, of which there are none, and knows devices of
    this kind as "cuda".
    """
    attention.check_cudnn_version = lambda: 91000
    attention.check_compute_capability = lambda *_: True
    canonical = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name == "gpu" else canonical(name)
    described = topologies.get_topology_desc(
        platform="cuda", topology_name="1x1x1", target_config=target.read_text(), topology="1x1x1"
    )
    return described.devices[0]


def compile_for(config: schema.Config, kind: str, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """The train step, or the program from images to masks of a folded network."""
    if kind == "train":
        lowered = TrainProgram.of(config, mesh).trace().lower()
        return lowered.compile(compiler_options("gpu", training=True))
    network = build_network(without_auxiliary_head(config.model), platform="gpu")
    zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in network.shapes.items()}
    network, variables = fold(network, zeros, platform="gpu")
    protocol = Protocol.of(config.eval, config.model.align_corners)
    segment = programs.segmenting(network, protocol, probabilities=False)
    count, size = config.batch_size, config.data.crop_size
    images = np.zeros((count, *size, 3), np.uint8)
    sizes, labels = np.full((count, 2), size, np.int32), np.zeros((count, *size), np.uint8)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)),
        (variables, EvaluationBatch((Scaled(images, sizes),), sizes, labels)),
    )
    with jax.set_mesh(mesh):  # which kernels read the device from
        lowered = segment.lower(*shapes, canvas=size, padded=False)
    return compile_inference(lowered, "gpu")


class Kernel(NamedTuple):
    """What is launched: its kind, bytes read and written, operations, and how often in a step."""

    what: str
    bytes: int
    flops: float
    times: int


def kernels(program: hlo.Program) -> list[Kernel]:
    """Everything that is launched."""
    found = []
    for computation, instruction, times in program.executed():
        if instruction.operation in FREE:
            continue
        results = instruction.shape
        if instruction.operation == "custom-call":  # what it scribbles in is no result
            results = re.sub(r"\b[su]8\[\d+\]", "", results)
        shapes = [results, *operand_shapes(computation, instruction)]
        target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
        kind = re.search(r"kind=(\w+)", instruction.rest)
        detail = target or kind
        what = f"{instruction.operation} {detail[1]}" if detail else instruction.operation
        flops = operations(program, computation, instruction)
        found.append(Kernel(what, sum(map(hlo.array_bytes, shapes)), flops, times))
    return found


def operand_shapes(computation: hlo.Computation, instruction: hlo.Instruction) -> list[str]:
    """Shapes of what an instruction reads, in order."""
    return [computation[name].shape for name in instruction.operands if name in computation]


def operations(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> float:
    """Multiplications and additions of its products and convolutions; 0 for Pallas's kernels."""
    if instruction.operation == "fusion":
        inside = program.computations[instruction.called[0]]
        return sum(operations(program, inside, inner) for inner in inside.values())
    shapes = [dimensions(instruction.shape)]
    shapes += map(dimensions, operand_shapes(computation, instruction))
    contracted = re.search(CONTRACTED, instruction.rest)
    if contracted:
        return 2.0 * math.prod(shapes[0]) * shapes[1][int(contracted[1])]
    if "fmhaSoftmax" in instruction.rest:
        query, key = shapes[1:3]
        products = 5 if "Backward" in instruction.rest else 2
        return 2.0 * products * math.prod(query) * key[1]
    if instruction.operation == "convolution" or "__cudnn$conv" in instruction.rest:
        result, first, second = shapes[:3]
        images, kernel = result, second
        if "BackwardFilter" in instruction.rest:
            images, kernel = second, result
        elif "BackwardInput" in instruction.rest:
            images = first
        return 2.0 * math.prod(images) * math.prod(kernel) / images[-1]
    return 0.0


def epilogues(program: hlo.Program) -> list[bool]:
    """For each convolution that applies a ReLU, whether it adds a shortcut before."""
    found = []
    for computation, instruction, _ in program.executed():
        shapes = operand_shapes(computation, instruction)
        if "__cudnn$convBiasActivation" in instruction.rest and '"kRelu"' in instruction.rest:
            found.append(len(shapes) == 4)  # images, kernel, bias, shortcut
        elif instruction.operation == "fusion":
            inside = list(program.computations[instruction.called[0]].values())
            convolves = any(inner.operation == "convolution" for inner in inside)
            if convolves and inside[-1].operation == "maximum":
                arrays = [len(dimensions(shape)) for shape in shapes]
                found.append(arrays.count(4) == 3)  # images, kernel, shortcut
    return found


def dimensions(shape: str) -> list[int]:
    """Lengths of the first array that a shape names."""
    lengths = re.search(r"\[([\d,]*)\]", shape)
    return [int(n) for n in lengths[1].split(",") if n] if lengths else []


def main() -> None:
    """Compiles a program and prints what it does."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    h200 = pathlib.Path(__file__).with_name("h200.txtpb")
    add("target", nargs="?", type=pathlib.Path, default=h200)
    add("--config", default="configs/ade20k_r50_80k.py", help="a config's file")
    add("--kind", choices=("train", "infer"), default="train", help="a train step, or masks")
    add("--batch", type=int, default=16, help="images")
    remat = ("auto", "none", "norms", "blocks")
    add("--remat", choices=remat, default="auto", help="config.model.remat")
    add("--bandwidth", type=float, default=4.3e12, help="bytes a second")
    add("--peak", type=float, default=790e12, help="operations a second")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    named = {"model.decode_head.implementation": "cudnn", "model.dtype": "bfloat16"}
    named["model.remat"] = options.remat
    config = files.load(options.config, batch_size=options.batch, **named)
    mesh = sharding.make_mesh(schema.Mesh(), [device(options.target)])
    compiled = compile_for(config, options.kind, mesh)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    rows: dict[str, list[Kernel]] = collections.defaultdict(list)
    for kernel in kernels(hlo.Program(text)):
        rows[kernel.what].append(kernel)
    rows = dict(sorted(rows.items(), key=lambda row: -sum(k.times * k.bytes for k in row[1])))
    rows["all"] = [kernel for row in rows.values() for kernel in row]
    print(f"{'kernels':50}{'count':>6}{'GB':>9}{'TFLOP':>9}{'ms':>9}")
    for what, row in rows.items():
        size, work = (sum(k.times * k[i] for k in row) for i in (1, 2))
        seconds = sum(
            k.times * max(k.bytes / options.bandwidth, k.flops / options.peak) for k in row
        )
        count = sum(k.times for k in row)
        print(f"{what:50}{count:6}{size / 1e9:9.2f}{work / 1e12:9.2f}{1e3 * seconds:9.2f}")
    print(f"temporaries: {memory.temp_size_in_bytes / 1e9:.2f} GB")
    print("loops:", len(re.findall(r" while\(", text)))
    print("float32 products of highest precision:", text.count("operand_precision={highest"))
    found = epilogues(hlo.Program(text))
    print("convolutions that end with a ReLU:", len(found), "of these with a shortcut:", sum(found))


if __name__ == "__main__":
    main()
