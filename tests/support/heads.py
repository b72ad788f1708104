"""A tiny head of each method without its arrays, with the weights of golden/make_family.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from networks import GOLDEN, NUM_CLASSES, weights

from family_cases import CANVAS, CASES, STAGES  # isort: skip  # networks has put golden/ on the path
from nonlocal_jax.checkpoints.pytorch import rules
from nonlocal_jax.config import tables
from nonlocal_jax.models.backbones.backbone import Stage
from nonlocal_jax.models.functional import Functional
from nonlocal_jax.models.heads.head import Head
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import TorchKeys
from nonlocal_jax.ops.layout import split

METHODS = [method for method in CASES if method in tables.HEADS]


class HeadAlone(Functional[Head]):
    """A head without its arrays."""

    @property
    def entries(self) -> dict[str, rules.Entry]:
        """The tensor of a PyTorch file for each variable."""
        return rules.torch_entries(self.shapes, TorchKeys(self.abstract.torch_keys))


@functools.cache
def tiny_head(method, dtype="float32"):
    """The head of a case."""
    return head_of(method, CASES[method].ours, dtype=jnp.dtype(dtype))


def head_of(method, options, **numerics_of):
    """A head with these options."""
    module = tables.find("heads", method, "model.decode_head.name")
    options = module.Options(**{"dropout": 0.0, **options})
    stages = {name: Stage(channels, 8) for name, channels in STAGES.items()}

    def build():
        numerics = Numerics(rngs=nnx.Rngs(0), **numerics_of)
        return module.build(options, stages, NUM_CLASSES, numerics)

    return HeadAlone(*nnx.split(nnx.eval_shape(build)))


def golden(method):
    """What the reference computes: see golden/make_family.py."""
    with np.load(GOLDEN / "family" / f"{method}.npz") as arrays:
        return dict(arrays)


def golden_variables(head, dtype="float32"):
    """The weights of golden/weights.py under our names and in our layouts."""
    values = weights(
        {
            entry.key: rules.torch_shape(head.shapes[name].shape, entry.layout)
            for name, entry in head.entries.items()
        }
    )
    return {
        name: jnp.asarray(rules.to_ours(values[entry.key], entry.layout), dtype)
        for name, entry in head.entries.items()
    }


def padded(method, seed=0):
    """The images of a case in one batch, and their sizes; beside them is a large, loud one."""
    case = CASES[method]
    loud = [100 * x for x in case.inputs(8 + seed, 1, CANVAS)]
    return one_batch(case, [*case.evaluation(), (CANVAS, loud)])


def one_batch(case, sizes_and_maps, canvas=CANVAS):
    """Images in one batch. Outside of them are zeros, as all layers leave them there."""
    sizes, images = zip(*sizes_and_maps, strict=True)
    batches = []
    for stage in range(len(case.reads)):
        batch = np.zeros((len(images), *canvas, images[0][stage].shape[-1]), np.float32)
        for row, maps, (height, width) in zip(batch, images, sizes, strict=True):
            row[:height, :width] = maps[stage][0]
        batches.append(batch)
    valid = np.array(sizes, np.int32)
    return tuple(batches), (valid,) * len(case.reads)


def logits(head, variables, features, valid=None):
    """In evaluation."""
    return head.bind_for_inference(variables)(tuple(map(split, features)), valid)


def in_training(head, variables, features, directions):
    """Training outputs, their gradients by our names, and statistics after the call.

    The gradients are those of the scalar product of all outputs with `directions`, by name.
    """
    trained = {name: variables[name] for name in head.trainable}

    def product(trained, features):
        model = head.bind({**variables, **trained})
        model.train()
        features = tuple(map(split, features))  # over the devices of a mesh
        outputs = {k: v.logits for k, v in model.training_logits(features).items()}
        total = sum(jnp.sum(outputs[name] * directions[name]) for name in outputs)
        after = flat(nnx.state(model, nnx.BatchStat))
        return total, (outputs, after)

    gradient = jax.grad(product, argnums=(0, 1), has_aux=True)
    (of_weights, of_features), (outputs, after) = gradient(trained, features)
    return outputs, of_weights, of_features, after


def flat(state):
    """Arrays by name."""
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
