"""What a train or an inference program does on a GPU that need not be here.

    JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python benchmarks/gpu_program.py [TARGET] --kind=infer

compiles it ahead of time for an H200, or for the GPU that the file TARGET describes (XLA's
GpuTargetConfigProto, as text). It prints how many kernels there are of each kind, what they move,
and how long that takes at --bandwidth; then what a fast program has none of, and how many
convolutions end with their ReLU. It needs JAX's CUDA plugin, but neither a GPU nor CUDA's
libraries.
"""

import argparse
import collections
import pathlib
import re

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
from nonlocal_jax.runtime.compilation import compiler_options
from nonlocal_jax.training.compiled_step import TrainProgram

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", *hlo.FREE}
BYTES = {"f64": 8, "s64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}


def device(target: pathlib.Path) -> jax.Device:
    """The GPU that a file describes. It must be one that cuDNN has attention for."""
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
    with jax.set_mesh(mesh):  # which says what kernels are for
        lowered = segment.lower(*shapes, canvas=size, padded=False)
    return lowered.compile()


def kernels(program: hlo.Program) -> list[tuple[str, int, int]]:
    """(what, bytes read and written, times) of everything that is launched."""
    found = []
    for computation, instruction, times in program.executed():
        if instruction.operation in FREE:
            continue
        shapes = [instruction.shape]
        shapes += [computation[name].shape for name in instruction.operands if name in computation]
        target = re.search(r'custom_call_target="([^"]+)"', instruction.rest)
        kind = re.search(r"kind=(\w+)", instruction.rest)
        detail = target or kind
        what = f"{instruction.operation} {detail[1]}" if detail else instruction.operation
        found.append((what, sum(map(size_of, shapes)), times))
    return found


def size_of(shape: str) -> int:
    """Bytes of the arrays that a shape names."""
    return sum(
        BYTES.get(dtype, 1) * int(np.prod([int(n) for n in lengths.split(",") if n]))
        for dtype, lengths in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    )


def main() -> None:
    """Compiles a program and prints what it does."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    h200 = pathlib.Path(__file__).with_name("h200.txtpb")
    add("target", nargs="?", type=pathlib.Path, default=h200)
    add("--config", default="configs/ade20k_r50_80k.py")
    add("--kind", choices=("train", "infer"), default="train")
    add("--batch", type=int, default=16)
    add("--bandwidth", type=float, default=4.3e12, help="bytes a second")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    named = {"model.decode_head.implementation": "cudnn", "model.dtype": "bfloat16"}
    config = files.load(options.config, batch_size=options.batch, **named)
    mesh = sharding.make_mesh(schema.Mesh(), [device(options.target)])
    text = compile_for(config, options.kind, mesh).as_text()
    rows: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for what, size, times in kernels(hlo.Program(text)):
        rows[what][0] += times
        rows[what][1] += size * times
    for what, (count, size) in sorted(rows.items(), key=lambda row: -row[1][1]):
        milliseconds = 1e3 * size / options.bandwidth
        print(f"{what:60}{count:6}{size / 1e9:9.2f} GB{milliseconds:8.2f} ms")
    count, size = (sum(row[i] for row in rows.values()) for i in (0, 1))
    print(f"{'all':60}{count:6}{size / 1e9:9.2f} GB{1e3 * size / options.bandwidth:8.2f} ms")
    print("loops:", len(re.findall(r" while\(", text)))
    print("float32 products of highest precision:", text.count("operand_precision={highest"))
    print("closed by a ReLU inside of a convolution:", text.count('"activation_mode":"kRelu"'))


if __name__ == "__main__":
    main()
