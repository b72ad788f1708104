"""What training minimises, and the accuracy that is watched beside it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

IGNORE = 255


def cross_entropy(
    logits: Float[Array, "n h w classes"], labels: UInt8[Array, "n h w"]
) -> Float[Array, ""]:
    """Softmax cross entropy, averaged over *all* pixels.

    Pixels labelled 255 add nothing to the sum but count in the denominator, as in the reference
    (`avg_non_ignore=False`).
    """
    labels = labels.astype(jnp.int32)
    counted = labels != IGNORE
    picked = jnp.where(counted, labels, 0)[..., None]
    log_probabilities = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probabilities, picked, axis=-1)[..., 0]
    return jnp.sum(jnp.where(counted, losses, 0.0)) / labels.size


def pixel_accuracy(
    logits: Float[Array, "n h w classes"], labels: UInt8[Array, "n h w"]
) -> Float[Array, ""]:
    """Share of the labelled pixels that the largest logit gets right; 0 where none is labelled."""
    counted = labels != IGNORE
    right = (jnp.argmax(logits, -1).astype(labels.dtype) == labels) & counted
    return jnp.sum(right) / jnp.maximum(jnp.sum(counted), 1)
