"""Queries and keys as integers with a scale for each position, and the weights computed from them.

`weights` computes what the page's JavaScript does (web/attention.js), in NumPy.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Integer

from nonlocal_jax.models.attention_factors import AttentionFactors, Kind

BITS = (8, 16)
BOUND = 1e-3  # of the difference of a weight; above it, or with another peak, 16 bits are used
COMPARED = 256  # positions at which weights are compared to choose the bits


@dataclasses.dataclass(frozen=True, eq=False)
class Quantised:
    """Vectors as integers.

    Attributes:
      values: int8 or int16.
      scales: what the integers of each vector are multiplied by.
    """

    values: Integer[np.ndarray, "p c"]
    scales: Float32[np.ndarray, "p"]

    @classmethod
    def of(cls, vectors: Float[np.ndarray, "p c"], bits: int) -> "Quantised":
        """The vectors with the largest entry of each as the largest integer."""
        largest = 2 ** (bits - 1) - 1
        scales = (np.abs(vectors).max(axis=1) / largest).astype(np.float32)
        scales[scales == 0] = 1
        dtype = np.int8 if bits == 8 else np.int16
        scaled = np.rint(vectors / scales[:, None])
        return cls(np.clip(scaled, -largest, largest).astype(dtype), scales)

    def floats(self) -> Float[np.ndarray, "p c"]:
        """The vectors, in float64."""
        vectors: np.ndarray = self.values.astype(np.float64) * self.scales[:, None]
        return vectors


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """What the page holds of an attention.

    Attributes:
      query: of each position.
      key: of each position that is attended to.
      unary: the unary map, or None.
      kind: how weights are computed: models/attention_factors.py.
      space: frames, rows and columns of the queries.
      key_space: the same of the keys.
      bits: of an integer.
    """

    query: Quantised
    key: Quantised
    unary: Float32[np.ndarray, "k"] | None
    kind: Kind
    space: tuple[int, ...]
    key_space: tuple[int, ...]
    bits: int

    def weights(self, positions: Integer[np.ndarray, "q"]) -> Float[np.ndarray, "q k"]:
        """The weights of some positions over the keys, as the page computes them."""
        return weights(
            self.query.floats()[positions], self.key.floats(), self.unary, kind=self.kind
        )


def quantise(factors: AttentionFactors) -> Stored:
    """Queries and keys of one image or clip (without a batch axis) in as few bits as suffice.

    8 bits suffice if at `COMPARED` positions no weight changes by more than `BOUND`, and the
    largest weight stays where it is.
    """
    query, key, unary = _flat(factors)
    space, key_space = (_space(part.shape[:-1]) for part in (factors.query, factors.key))
    if factors.kind == "softmax":
        # A constant vector added to all keys adds a constant to all scores of a query.
        key = key - key.mean(axis=0)
    rng = np.random.default_rng(0)
    some = rng.permutation(len(query))[:COMPARED]
    exact = weights(query[some], key, unary, kind=factors.kind)
    for bits in BITS:
        stored = Stored(
            Quantised.of(query, bits),
            Quantised.of(key, bits),
            unary,
            factors.kind,
            space,
            key_space,
            bits,
        )
        found = stored.weights(some)
        same_peaks = np.array_equal(found.argmax(axis=1), exact.argmax(axis=1))
        if same_peaks and np.abs(found - exact).max() <= BOUND:
            break
    return stored


def weights(
    query: Float[np.ndarray, "q c"],
    key: Float[np.ndarray, "k c"],
    unary: Float[np.ndarray, "k"] | None,
    *,
    kind: Kind,
) -> Float[np.ndarray, "q k"]:
    """The weights of queries over keys, in float64; see models/attention_factors.py."""
    if kind == "relu":
        found = np.maximum(query + key.T, 0) / len(key)
    elif kind == "mean":
        found = query @ key.T / len(key)
    else:
        scores = query @ key.T
        found = np.exp(scores - scores.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
    with_unary: np.ndarray = found if unary is None else (found + unary) / 2
    return with_unary


def _flat(
    factors: AttentionFactors,
) -> tuple[Float[np.ndarray, "p c"], Float[np.ndarray, "k c"], Float32[np.ndarray, "k"] | None]:
    """Queries, keys and the unary map over positions in a row; the first two in float64."""
    query, key = (
        np.asarray(part, np.float64).reshape(-1, part.shape[-1])
        for part in (factors.query, factors.key)
    )
    unary = None if factors.unary is None else np.asarray(factors.unary, np.float32).reshape(-1)
    return query, key, unary


def _space(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Frames, rows and columns; an image is one frame."""
    return (1, *shape) if len(shape) == 2 else shape
