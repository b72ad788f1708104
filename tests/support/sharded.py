"""A network that compiles in a moment, one training step of it on any mesh, and its program read.

As a program, `python tests/support/sharded.py COORDINATOR COUNT RANK OUTPUT SLICES`, it is one of
several processes: each loads its own rows, and the first writes what all have computed. If SLICES
is not 0, the mesh takes each process for a TPU slice.
"""

import functools
import os
import re
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from networks import NUM_CLASSES, golden_variables, tiny_config

from nonlocal_jax.config import files, schema
from nonlocal_jax.models.backbones import resnet
from nonlocal_jax.ops.attention import chunked
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.compiled_step import TrainProgram

BATCH = 16
SIZE = (89, 73)  # odd at every stride, down to 12 x 10
POSITIONS = 120
PIXELS = BATCH * SIZE[0] * SIZE[1]
# Of the non-local block, whose keys are the smallest features with all positions.
KEY_CHANNELS = {"embedded_gaussian": 8, "dot_product": 8, "concatenation": 8, "gaussian": 16}
WIDEST = 32  # channels of the last stage, at all positions
# How the program is split over devices does not depend on how well it is compiled for each.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
MESHES_OF_PROCESSES = [(4, 1, 1), (1, 2, 2), (1, 1, 4)]
MESHES_OF_SLICES = [(2, 1, 2)]


def shrink(patch, depth=18):
    """One block a stage, and several chunks of queries; `patch` sets items and attributes."""
    patch.setitem(resnet.BLOCKS_PER_STAGE, depth, (1, 1, 1, 1))
    patch.setattr(chunked, "MIN_CHUNK", 8)
    patch.setattr(chunked, "CHUNK_BYTES", 0)


def config(**model):
    """Its optimiser's momentum after one step is the gradient."""
    small = tiny_config(**{"backbone.depth": 18, **model})
    values = {"batch_size": BATCH, "data.crop_size": SIZE, "optimizer.weight_decay": 0.0}
    return files.override(small, **values)


def mesh_of(data, fsdp, spatial):
    """A mesh over the first devices; all of them, if there are several processes."""
    count = data * fsdp * spatial
    axes = schema.Mesh(data=data, fsdp=fsdp, spatial=spatial)
    return sharding.make_mesh(axes, jax.devices()[:count])


def batch(rows=None):
    """The global batch, or some rows of it, with images of several sizes and labels to ignore."""
    rng = np.random.default_rng(0)
    whole = {
        "image": rng.integers(0, 256, (BATCH, *SIZE, 3), dtype=np.uint8),
        "label": rng.integers(0, NUM_CLASSES, (BATCH, *SIZE), dtype=np.uint8),
        "size": np.array([SIZE, (SIZE[0] - 20, SIZE[1] - 7)] * (BATCH // 2), np.int32),
    }
    for label, (height, width) in zip(whole["label"], whole["size"], strict=True):
        label[height:], label[:, width:] = 255, 255
    return {key: value if rows is None else value[rows] for key, value in whole.items()}


def compile_step(config, mesh):
    return TrainProgram.of(config, mesh).trace().lower().compile(QUICK)


def first_state(config, mesh):
    program = TrainProgram.of(config, mesh)
    return program.first_state(golden_variables(config, program.network))


def results(compiled, config, mesh):
    """Metrics, gradients and statistics by name, as NumPy arrays, after one step."""
    rows = sharding.local_rows(mesh, BATCH)
    state, metrics = compiled(first_state(config, mesh), sharding.put_batch(batch(rows), mesh))
    (gradients,) = [
        leaf
        for leaf in jax.tree.leaves(state.optimizer, is_leaf=lambda x: isinstance(x, dict))
        if isinstance(leaf, dict)
    ]
    named = {"metric/" + name: value for name, value in metrics.items()}
    named |= {"gradient/" + name: value for name, value in gradients.items()}
    named |= {"statistic/" + name: value for name, value in state.statistics.items()}
    return jax.tree.map(_whole, named)


def _whole(array):
    if jax.process_count() > 1:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def collective_sizes(program):
    """(operation, elements) of every array that a collective of a compiled program gives."""
    pattern = r"= (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\S*\("
    found = []
    for shapes, operation in re.findall(pattern, program):
        for dims in re.findall(r"[a-z]\w*\[([\d,]*)\]", shapes):
            found.append((operation, int(np.prod([int(d) for d in dims.split(",") if d]))))
    return found


def main():
    coordinator, (count, rank, slices) = sys.argv[1], map(int, (*sys.argv[2:4], sys.argv[5]))
    output = sys.argv[4]
    devices = 4 // count
    quick = "--xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{quick} --xla_force_host_platform_device_count={devices}"
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.distributed.initialize(coordinator, count, rank)
    if slices:  # JAX has no slice index for CPUs
        sharding.slices_of = lambda devices: slices
        sharding.mesh_utils.create_hybrid_device_mesh = functools.partial(
            sharding.mesh_utils.create_hybrid_device_mesh, process_is_granule=True
        )
    resnet.BLOCKS_PER_STAGE[18] = (1, 1, 1, 1)
    chunked.MIN_CHUNK, chunked.CHUNK_BYTES = 8, 0
    found = {}
    for sizes in MESHES_OF_SLICES if slices else MESHES_OF_PROCESSES:
        mesh, small = mesh_of(*sizes), config()
        for name, value in results(compile_step(small, mesh), small, mesh).items():
            found[f"{sizes}/{name}"] = value
        if slices:  # of the devices, by the mesh's axis `data`
            rows = mesh.devices.reshape(sizes[0], -1)
            found["slices"] = np.array([sorted({d.process_index for d in row}) for row in rows])
    if jax.process_index() == 0:
        np.savez(output, **found)


if __name__ == "__main__":
    main()
