"""The train and the eval step of a config, traced for the chips of a slice."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nonlocal_jax import evaluate
from nonlocal_jax.evaluation import batching, predictor
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.inputs.transforms import test_sizes
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training import compiled_step
from nonlocal_jax.training.step import TrainState

# Of the image that the eval step is compiled for, height to width: Cityscapes' photographs have
# all the first, ADE20K's and VOC's mostly the second.
WIDE, PHOTO = (1024, 2048), (384, 512)

Size = tuple[int, int]


def train(config: ConfigDict, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """The train step that a run compiles."""
    network = compiled_step.network_on(config, mesh)
    return compiled_step.trace_train_step(
        config, network, compiled_step.make_optimizer(config), mesh
    )


def evaluation(config: ConfigDict, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """The step that evaluates a batch of images of the data set's usual size, without padding."""
    network = compiled_step.network_on(config, mesh)
    batch_size = evaluate.eval_batch_size(config, mesh)
    canvas, seen = eval_sizes(config)

    def images(shape: tuple[int, ...], dtype: type) -> Any:
        whole = (batch_size, *shape)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=sharding.image_sharding(mesh, whole))

    batch = batching.Batch(
        (Scaled(images((*seen, 3), np.uint8), images((2,), np.int32)),),
        images((2,), np.int32),
        images(canvas, np.uint8),
    )
    state = compiled_step.abstract_state(network, compiled_step.make_optimizer(config), mesh)
    count = evaluate.counting(
        network, predictor.protocol(config, tta=False), config.model.num_classes
    )
    with jax.set_mesh(mesh):
        return count.trace(state.variables, batch, canvas=canvas, padded=False)


def eval_sizes(config: ConfigDict) -> tuple[Size, Size]:
    """Of the image that the eval step is compiled for: its own size, and that it is resized to."""
    original = WIDE if config.data.name == "cityscapes" else PHOTO
    (seen,) = test_sizes(*original, config.eval.scale, (1.0,))
    return original, seen


def state_bytes(config: ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Bytes of the training state on each chip: "parameters" (with statistics), "optimizer"."""
    network = compiled_step.network_on(config, mesh)
    state: TrainState = compiled_step.abstract_state(
        network, compiled_step.make_optimizer(config), mesh
    )
    return {"parameters": _local_bytes(state.variables), "optimizer": _local_bytes(state.optimizer)}


def _local_bytes(tree: object) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
