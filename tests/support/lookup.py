"""A network without rounding: whatever differs in masks is the readout's."""

import jax.numpy as jnp
import numpy as np

from nonlocal_jax.ops.normalize import MEAN_RGB, STD_RGB

STRIDE, CLASSES = 8, 7
TABLE = np.random.default_rng(0).standard_normal((256, CLASSES)).astype(np.float32)


class Lookup:
    """The logits of every STRIDE-th pixel are those of its red in a table."""

    output_stride = STRIDE

    def __call__(self, images, valid=None):
        red = images[:, ::STRIDE, ::STRIDE, 0] * STD_RGB[0] + MEAN_RGB[0]
        return jnp.asarray(TABLE, jnp.result_type(float))[jnp.round(red).astype(jnp.int32)]


def plain_lookup(image):
    """The same for an image [h, w, 3] of bytes."""
    return TABLE[image[::STRIDE, ::STRIDE, 0]]
