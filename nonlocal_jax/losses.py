"""What training minimises, and the accuracy that is watched beside it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

IGNORE = 255


def cross_entropy_sum(
    logits: Float[Array, "n h w classes"], labels: UInt8[Array, "n h w"]
) -> Float[Array, ""]:
    """Softmax cross entropy, summed over the pixels that are not labelled 255."""
    labels = labels.astype(jnp.int32)
    counted = labels != IGNORE
    picked = jnp.where(counted, labels, 0)[..., None]
    log_probabilities = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probabilities, picked, axis=-1)[..., 0]
    return jnp.sum(jnp.where(counted, losses, 0.0))


def cross_entropy(
    logits: Float[Array, "n h w classes"], labels: UInt8[Array, "n h w"]
) -> Float[Array, ""]:
    """Softmax cross entropy, averaged over *all* pixels.

    Pixels labelled 255 add nothing to the sum but count in the denominator, as in the reference
    (`avg_non_ignore=False`).
    """
    return cross_entropy_sum(logits, labels) / labels.size


def count_right(
    logits: Float[Array, "n h w classes"], labels: UInt8[Array, "n h w"]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """How many labelled pixels the largest logit gets right, and how many are labelled."""
    counted = labels != IGNORE
    right = (jnp.argmax(logits, -1).astype(labels.dtype) == labels) & counted
    return jnp.sum(right), jnp.sum(counted)


def pixel_accuracy(
    logits: Float[Array, "n h w classes"], labels: UInt8[Array, "n h w"]
) -> Float[Array, ""]:
    """Share of the labelled pixels that the largest logit gets right; 0 where none is labelled."""
    right, counted = count_right(logits, labels)
    return right / jnp.maximum(counted, 1)
