"""Attention without queries: one softmax over all positions, the same for every position."""

import jax
from jaxtyping import Array, Float

from nonlocal_jax.ops.attention.keys import products
from nonlocal_jax.ops.padding import Valid, valid_mask

Scores = Float[Array, "n h w"]
Map = Float[Array, "n h w"]


def unary_scores(x: Float[Array, "n h w c"], kernel: Float[Array, "c"]) -> Scores:
    """x_j . kernel for each position j, in float32 or wider."""
    scores: Scores = products("nhwc,c->nhw", x, kernel.astype(x.dtype))
    return scores


def unary_weights(scores: Scores, valid: Valid | None) -> Map:
    """The softmax of scores over the positions of each image; 0 outside of it."""
    where = None if valid is None else valid_mask(valid, scores.shape[1:])[..., 0]
    weights: Map = jax.nn.softmax(scores, axis=(1, 2), where=where)
    return weights


def unary_attention(weights: Map, value: Float[Array, "n h w d"]) -> Float[Array, "n d"]:
    """sum_j weights_j value_j, in float32 or wider."""
    summed: Array = products("nhw,nhwd->nd", weights.astype(value.dtype), value)
    return summed
