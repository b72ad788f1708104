"""Semantic segmentation: a class for each pixel of an image."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from nonlocal_jax.config import schema
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.models.network import Network, build_network, init_variables
from nonlocal_jax.models.segmentor import Segmentor
from nonlocal_jax.ops.normalize import normalize
from nonlocal_jax.training.losses.loss import Loss, make_loss
from nonlocal_jax.training.tasks.task import Arrays, Objective, Task

SAME = "same"  # the loss of an auxiliary head that has none of its own


class Segmentation(Task):
    """The task of a config."""

    unit = "images"

    def __init__(self, config: schema.Config):
        self._config = config

    @functools.cached_property
    def inputs(self) -> Inputs:
        """The data of the run."""
        return Inputs.of(self._config)

    def network(self, mesh: Mesh) -> Network:
        """The network, with the dtype and the kernels for the devices of a mesh."""
        return build_network(self._config.model, platform=mesh.devices.flat[0].platform)

    def initial_variables(self) -> Arrays:
        """Freshly initialised variables of the network, by name."""
        return init_variables(self._config.model, self._config.seed)

    def objective(self) -> Objective:
        """The sum of the losses of all heads."""
        config = self._config
        loss, others = make_loss(config.loss), None
        if config.auxiliary_loss.name != SAME:
            others = make_loss(config.auxiliary_loss, "auxiliary_loss")
        return objective(loss, config.model.align_corners, auxiliary_loss=others)

    def evaluation(self, network: Any, mesh: Mesh) -> Evaluation:
        """The evaluation of the network that is trained."""
        return Evaluation.of(self._config, network, mesh)

    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global training batch; see `inputs.loader.TrainingBatch`."""
        count, crop = self._config.batch_size, self._config.data.crop_size
        return {
            "image": jax.ShapeDtypeStruct((count, *crop, 3), np.uint8),
            "label": jax.ShapeDtypeStruct((count, *crop), np.uint8),
            "size": jax.ShapeDtypeStruct((count, 2), np.int32),
        }

    def random_batch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A global training batch of random examples, for measurements."""
        shapes, classes = self.batch(), self._config.model.num_classes
        return {
            "image": rng.integers(0, 256, shapes["image"].shape, dtype=np.uint8),
            "label": rng.integers(0, classes, shapes["label"].shape, dtype=np.uint8),
            "size": np.full(shapes["size"].shape, self._config.data.crop_size, np.int32),
        }

    def meta(self) -> Mapping[str, Any]:
        """Names and colours of the classes."""
        dataset = self.inputs.dataset
        return {"CLASSES": list(dataset.class_names), "PALETTE": dataset.palette.tolist()}


def build(config: schema.Config) -> Segmentation:
    """The task of a config."""
    return Segmentation(config)


def objective(loss: Loss, align_corners: bool, *, auxiliary_loss: Loss | None = None) -> Objective:
    """The sum of the losses of a segmentor's outputs.

    A batch holds `image` uint8 [n, h, w, 3], `label` uint8 [n, h, w] and `size` int32 [n, 2], the
    height and width without padding. Metrics are `loss`, `loss_NAME` of each output of the network
    (`decode`, `auxiliary`), and the `accuracy` of the decode head.

    Args:
      loss: applied to each output.
      align_corners: how logits are resized to the labels.
      auxiliary_loss: of outputs of the auxiliary head, if it has a loss of its own.
    """

    def compute(model: Segmentor, batch: Arrays, rngs: nnx.Rngs) -> Arrays:
        images = normalize(batch["image"], batch["size"])
        outputs = model.training_outputs(images, rngs=rngs)
        metrics: Arrays = {}
        for name, output in outputs.items():
            own = auxiliary_loss if name.partition("_")[0] == "auxiliary" else None
            result = (own or loss)(output.logits, batch["label"], align_corners)
            metrics[f"loss_{name}"] = output.weight * result.loss
            if name == "decode":
                metrics["accuracy"] = result.accuracy
        total = functools.reduce(jnp.add, (metrics[f"loss_{name}"] for name in outputs))
        return {"loss": total, **metrics}

    return compute
