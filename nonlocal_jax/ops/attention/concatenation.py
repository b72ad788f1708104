"""Sums of ReLU(a_i + b_j) over all j for every i, in O(N log N + N d) instead of O(N^2 d).

For one query, F(t) = sum_j ReLU(t + b_j) g_j at t = a_i is piecewise linear in t with a knot at
every -b_j. With the b_j sorted in falling order, the slope between two knots is a prefix sum of the
sorted g, and the value at a knot is a prefix sum of slope times gap:

    slope_k = g_1 + ... + g_k,    F(-b_k) = sum_{m < k} slope_m (b_m - b_{m+1}).

A query finds its segment by binary search and adds the rest within it. Gaps are never negative, so
nothing cancels that does not cancel in the direct sum. (A difference of prefix sums of b_j g_j and
a_i g_j would cancel.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nonlocal_jax.ops.attention.keys import count_keys

Scores = Float[Array, "n q"]
KeyScores = Float[Array, "n k"]
Value = Float[Array, "n k d"]


def concatenation_attention(
    query_score: Scores,
    key_score: KeyScores,
    value: Value,
    *,
    key_valid: Bool[Array, "n k"] | None = None,
) -> Float[Array, "n q d"]:
    """1/N sum_j ReLU(query_score_i + key_score_j) value_j over the N valid keys.

    The result has the dtype of `value`; sums are float32. This is the concatenation form of the
    paper: w^T [theta_i, phi_j] is the sum of a number of position i and a number of position j.
    """
    a, b, g = (x.astype(jnp.float32) for x in (query_score, key_score, value))
    if key_valid is not None:
        b = jnp.where(key_valid, b, 0.0)
        g = jnp.where(key_valid[..., None], g, 0.0)
    return (_relu_sums(a, b, g) / count_keys(b, key_valid)).astype(value.dtype)


@jax.custom_vjp
def _relu_sums(a: Scores, b: KeyScores, g: Value) -> Float[Array, "n q d"]:
    return _sums_and_slopes(a, b, g)[0]


def _forward(
    a: Scores, b: KeyScores, g: Value
) -> tuple[Float[Array, "n q d"], tuple[Scores, KeyScores, Value, Float[Array, "n q d"]]]:
    sums, slopes = _sums_and_slopes(a, b, g)
    return sums, (a, b, g, slopes)


def _backward(
    residuals: tuple[Scores, KeyScores, Value, Float[Array, "n q d"]], grad: Float[Array, "n q d"]
) -> tuple[Scores, KeyScores, Value]:
    """The gradient is the same sum with queries and keys exchanged."""
    a, b, g, slopes = residuals
    grad_g, slopes_of_grad = _sums_and_slopes(b, a, grad)
    return jnp.sum(slopes * grad, axis=-1), jnp.sum(slopes_of_grad * g, axis=-1), grad_g


_relu_sums.defvjp(_forward, _backward)


@jax.vmap
def _sums_and_slopes(
    a: Float[Array, "q"], b: Float[Array, "k"], g: Float[Array, "k d"]
) -> tuple[Float[Array, "q d"], Float[Array, "q d"]]:
    """sum_j ReLU(a_i + b_j) g_j, and its derivative by a_i: the sum of g_j where a_i + b_j > 0."""
    order = jnp.argsort(-b)
    b, g = b[order], g[order]
    slopes = jnp.cumsum(g, axis=0)
    gaps = b[:-1] - b[1:]
    at_knots = jnp.pad(jnp.cumsum(slopes[:-1] * gaps[:, None], axis=0), ((1, 0), (0, 0)))

    active = jnp.searchsorted(-b, a, side="left")  # how many b_j exceed -a_i
    last = jnp.maximum(active - 1, 0)
    any_active = (active > 0)[:, None]
    slope = jnp.where(any_active, slopes[last], 0.0)
    beyond_knot = (a + b[last])[:, None]
    return jnp.where(any_active, at_knots[last] + beyond_knot * slope, 0.0), slope
