"""Action recognition: a class for a clip of frames."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nonlocal_jax.config import tables
from nonlocal_jax.config.video import VideoConfig
from nonlocal_jax.evaluation.video.evaluate import VideoEvaluation
from nonlocal_jax.inputs.video.loader import VideoInputs
from nonlocal_jax.models.recognizer import Recognizer
from nonlocal_jax.models.video_network import VideoNetwork, build_network, init_variables
from nonlocal_jax.ops.normalize import normalize_clips
from nonlocal_jax.training.losses.classification import Loss
from nonlocal_jax.training.tasks.task import Arrays, Objective, Task


class Video(Task):
    """The task of a config."""

    unit = "clips"

    def __init__(self, config: VideoConfig):
        self._config = config

    @functools.cached_property
    def inputs(self) -> VideoInputs:
        """The data of the run."""
        return VideoInputs.of(self._config)

    def network(self, mesh: Mesh) -> VideoNetwork:
        """The network, with the dtype and the kernels for the devices of a mesh."""
        return build_network(self._config.model, platform=mesh.devices.flat[0].platform)

    def initial_variables(self) -> Arrays:
        """Freshly initialised variables of the network, by name."""
        return init_variables(self._config.model, self._config.seed)

    def objective(self) -> Objective:
        """The loss of the clips' logits."""
        options = self._config.loss
        loss = tables.find("losses", options.name, "loss.name").build(options)
        model = self._config.model
        return objective(loss, norm_group=model.norm_group, weight=model.head.loss_weight)

    def evaluation(self, network: Any, mesh: Mesh) -> VideoEvaluation:
        """The evaluation of the network that is trained, with few views."""
        return VideoEvaluation.in_training(self._config, network, mesh)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global training batch; see `inputs.video.loader.TrainingBatch`."""
        count, data = self._config.batch_size, self._config.data
        shape = (count, data.frames, data.crop_size, data.crop_size, 3)
        return {
            "clip": jax.ShapeDtypeStruct(shape, np.uint8),
            "label": jax.ShapeDtypeStruct((count,), np.int32),
        }

    def random_batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A global training batch of random examples, for measurements."""
        shapes, classes = self.batch(), self._config.model.num_classes
        return {
            "clip": rng.integers(0, 256, shapes["clip"].shape, dtype=np.uint8),
            "label": rng.integers(0, classes, shapes["label"].shape, dtype=np.int32),
        }

    def meta(self) -> Mapping[str, Any]:
        """Names of the classes."""
        return {"CLASSES": list(self.inputs.dataset.class_names)}


def build(config: VideoConfig) -> Video:
    """The task of a config."""
    return Video(config)


def objective(loss: Loss, *, norm_group: int = 0, weight: float = 1.0) -> Objective:
    """A loss of the logits of a recognizer.

    A batch holds `clip` uint8 [n, t, h, w, 3] and `label` int32 [n].

    Args:
      loss: from logits and labels to a loss and an accuracy.
      norm_group: clips over which batch norm takes its statistics; 0: all.
      weight: the factor of the loss.
    """

    def compute(model: Recognizer, batch: Arrays, rngs: nnx.Rngs) -> Arrays:
        model.set_attributes(raise_if_not_found=False, group=norm_group)
        logits = model(normalize_clips(batch["clip"]), rngs=rngs)
        result = loss(logits, batch["label"])
        return {"loss": weight * result.loss, "accuracy": result.accuracy}

    return compute
