"""Video networks with the weights and clips of the goldens in golden/video and in shared/video.

The recipe and the goldens are those of the reference page; arrays of the goldens have Caffe2's
layout, [n, c, t, h, w].
"""

import json

import jax.numpy as jnp
import numpy as np
from device import EXACT
from flax import nnx
from networks import GOLDEN

from nonlocal_jax.checkpoints.caffe2 import rules
from nonlocal_jax.config.video import VideoModel
from nonlocal_jax.models.backbones import video_resnet
from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.models.heads import classification
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.video_non_local import VideoNonLocal

VIDEO = GOLDEN / "video"


def golden(path):
    """All arrays of a file."""
    with np.load(path) as arrays:
        return {key: arrays[key] for key in arrays.files}


def key_tables(shared):
    """Shapes of the blobs of each published network, by name."""
    tables = json.loads((shared / "video" / "key_tables.json").read_text())
    return {name: {**t["params"], **t["computed"]} for name, t in tables.items()}


def weights(table, seed):
    """Blobs of the shapes in `table`."""
    generator = np.random.RandomState(seed)
    return {key: _blob(key, generator.standard_normal(table[key])) for key in sorted(table)}


def _blob(key, z):
    if z.ndim > 1:  # zero mean for each output channel, unit fan-in
        fan_in = z[0].size
        mean = z.reshape(len(z), -1).mean(1).reshape(-1, *[1] * (z.ndim - 1))
        z = (z - mean) / fan_in**0.5
        if key == "pred_w":
            z = 2.0 * z
        elif key.endswith(("_theta_w", "_phi_w")):
            z = 1.3 * z
        else:
            z = (0.4 if key.endswith("_out_w") else 1.0) * 2**0.5 * z
    elif key.endswith("_bn_riv"):
        z = np.exp(0.2 * z)
    elif key.endswith("branch2c_bn_s"):
        z = 0.4 * (1 + 0.1 * z)
    elif key.endswith("_bn_s"):
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return z.astype(np.float32)


def clip(n, frames, height, width, seed):
    """Normalised clips in our layout, [n, t, h, w, 3]."""
    generator = np.random.RandomState(seed)
    coarse = generator.standard_normal((n, 3, frames, -(-height // 16), -(-width // 16)))
    fine = generator.standard_normal((n, 3, frames, height, width))
    coarse = coarse.repeat(16, 3).repeat(16, 4)[:, :, :, :height, :width]
    return ours((coarse + 0.5 * fine).astype(np.float32))


def ours(array):
    """[n, c, t, h, w] to [n, t, h, w, c]."""
    return jnp.asarray(array.transpose(0, 2, 3, 4, 1))


def theirs(array):
    """[n, t, h, w, c] to [n, c, t, h, w]."""
    return np.asarray(array).transpose(0, 4, 1, 2, 3)


def model(*, num_classes=400, dropout=0.5, **backbone):
    """A config's `model` section."""
    return VideoModel(
        num_classes=num_classes,
        backbone=video_resnet.Options(**backbone),
        head=classification.Options(dropout=dropout),
        **EXACT,
    )


def variables(names, rows, blobs):
    """Variables from Caffe2 blobs, which may be more."""
    return {
        name: jnp.asarray(rules.to_ours(blobs[entry.key], entry.layout))
        for name, entry in rules.entries(names, rows).items()
    }


def load(module, rows, blobs):
    """Sets the variables of a module."""
    values = variables(flat_variables(module), rows, blobs)
    state = nnx.state(module)
    leaves = [
        (path, leaf.replace(values["/".join(map(str, path))]))
        for path, leaf in nnx.to_flat_state(state)
    ]
    nnx.update(module, nnx.from_flat_state(leaves))


class Mini(nnx.Module):
    """The network of golden/video/minitrain.npz: two blocks, a non-local one, a linear layer."""

    caffe2_keys = (*video_resnet.CAFFE2_KEYS, *classification.CAFFE2_KEYS)

    def __init__(self, block=video_resnet.Bottleneck3d):
        numerics = Numerics(rngs=nnx.Rngs(0))
        settings = {"norm": "batch", "numerics": numerics}
        self.res9 = nnx.List(
            [
                block(8, 4, frames=3, stride=2, **settings),
                block(16, 4, frames=1, stride=1, **settings),
            ]
        )
        self.non_local = nnx.Dict({"res9": nnx.Dict({"1": VideoNonLocal(16, numerics=numerics)})})
        self.classifier = nnx.Linear(16, 7, rngs=numerics.rngs)

    def __call__(self, clips):
        for block in self.res9:
            clips = block(clips)
        clips = self.non_local["res9"]["1"](clips)
        return self.classifier(jnp.mean(clips, (1, 2, 3)))
