"""The train and the eval step of a config, traced for the chips of a slice."""

from typing import Any, cast

import jax
import numpy as np

from nonlocal_jax.config.schema import Config, Run, Size, for_segmentation
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.evaluation.batching import EvaluationBatch
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.video.evaluate import VideoEvaluation
from nonlocal_jax.inputs.transforms import test_sizes
from nonlocal_jax.models.network import Network
from nonlocal_jax.models.video_network import VideoNetwork
from nonlocal_jax.runtime import sharding
from nonlocal_jax.training.compiled_step import TrainProgram

# Of the image that the eval step is compiled for, height to width: Cityscapes' photographs have
# all the first, ADE20K's and VOC's mostly the second.
WIDE, PHOTO = (1024, 2048), (384, 512)


def train(config: Run, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """The train step that a run compiles."""
    return TrainProgram.of(config, mesh).trace()


def evaluation(config: Run, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """The step that evaluates a batch of the data set's images, or of views of its videos."""
    if isinstance(config, VideoConfig):
        return _views(config, mesh)
    return _images(for_segmentation(config), mesh)


def _views(config: VideoConfig, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    program = TrainProgram.of(config, mesh)
    step = VideoEvaluation.of(config, cast(VideoNetwork, program.network), mesh)
    return step.program.trace(program.abstract_state().variables)


def _images(config: Config, mesh: jax.sharding.Mesh) -> jax.stages.Traced:
    """Of images of the usual size, without padding."""
    program = TrainProgram.of(config, mesh)
    step = Evaluation.of(config, cast(Network, program.network), mesh)
    canvas, seen = eval_sizes(config)

    def images(shape: tuple[int, ...], dtype: type) -> Any:
        whole = (step.batch_size, *shape)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=sharding.image_sharding(mesh, whole))

    batch = EvaluationBatch(
        (Scaled(images((*seen, 3), np.uint8), images((2,), np.int32)),),
        images((2,), np.int32),
        images(canvas, np.uint8),
    )
    variables = program.abstract_state().variables
    with jax.set_mesh(mesh):
        return step.counting().trace(variables, batch, canvas=canvas, padded=False)


def eval_sizes(config: Config) -> tuple[Size, Size]:
    """The sizes of the image of the eval step: its own, and the size it is resized to."""
    original = WIDE if config.data.name == "cityscapes" else PHOTO
    (seen,) = test_sizes(*original, config.eval.scale, (1.0,))
    return original, seen


def state_bytes(config: Run, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Bytes of the training state on each chip.

    "parameters" are those with statistics; "optimizer" is with the average of the weights.
    """
    state = TrainProgram.of(config, mesh).abstract_state()
    kept = state.optimizer, state.average
    return {"parameters": _local_bytes(state.variables), "optimizer": _local_bytes(kept)}


def _local_bytes(tree: object) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
