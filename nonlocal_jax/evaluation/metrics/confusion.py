"""The confusion matrix, counted on the device, and sums over it, on the host."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jaxtyping import Array, Float, Int, Integer, UInt8

from nonlocal_jax.config.schema import IGNORED

Confusion = Integer[np.ndarray, "classes classes"]
Pixels = Integer[np.ndarray, "classes"]
PerClass = Float[np.ndarray, "classes"]
Metric = Callable[[Confusion], PerClass]


def right(confusion: Confusion) -> Pixels:
    """Pixels of each class that are predicted as it."""
    return np.diagonal(confusion)


def labelled(confusion: Confusion) -> Pixels:
    """Pixels with the label of each class."""
    pixels: Pixels = confusion.sum(axis=1)
    return pixels


def predicted(confusion: Confusion) -> Pixels:
    """Pixels that are predicted as each class."""
    pixels: Pixels = confusion.sum(axis=0)
    return pixels


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    return np.where(np.asarray(denominator) == 0, np.nan, quotient)


def confusion_matrix(
    predictions: UInt8[Array, "*pixels"], labels: UInt8[Array, "*pixels"], num_classes: int
) -> Int[Array, "{num_classes} {num_classes}"]:
    """Counts of pixels by label (row) and prediction (column), int32.

    Labels and predictions that are no class, 255 above all, are left out. One call counts up to
    2^31 pixels; add calls up in int64 on the host.
    """
    labels = labels.ravel().astype(jnp.int32)
    predictions = predictions.ravel().astype(jnp.int32)
    counts: Array = lax.platform_dependent(
        labels,
        predictions,
        cpu=lambda labels, predictions: _count_by_scatter(labels, predictions, num_classes),
        default=lambda labels, predictions: _count_by_product(labels, predictions, num_classes),
    )
    return counts


def _count_by_scatter(
    labels: Int[Array, "pixels"], predictions: Int[Array, "pixels"], num_classes: int
) -> Int[Array, "classes classes"]:
    """Adds one per pixel to its cell; uncounted pixels fall outside and are dropped."""
    counted = (labels < num_classes) & (predictions < num_classes)
    cell = jnp.where(counted, labels * num_classes + predictions, num_classes**2)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[cell].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


def _count_by_product(
    labels: Int[Array, "pixels"], predictions: Int[Array, "pixels"], num_classes: int
) -> Int[Array, "classes classes"]:
    """The product of both one-hot codes: accelerators multiply faster than they scatter.

    The codes are exact in bfloat16, and so are float32 sums of up to 2^24 of them.
    """
    chunk = min(2**20, max(labels.size, 1))
    missing = -labels.size % chunk
    labels = jnp.pad(labels, (0, missing), constant_values=IGNORED).reshape(-1, chunk)
    predictions = jnp.pad(predictions, (0, missing)).reshape(-1, chunk)

    def add(
        counts: Int[Array, "classes classes"], pixels: tuple[Array, Array]
    ) -> tuple[Int[Array, "classes classes"], None]:
        one_hot_label, one_hot_prediction = (
            jax.nn.one_hot(part, num_classes, dtype=jnp.bfloat16) for part in pixels
        )
        product = jnp.einsum(
            "pl,pq->lq",
            one_hot_label,
            one_hot_prediction,
            preferred_element_type=jnp.float32,
        )
        return counts + product.astype(jnp.int32), None

    zeros = jnp.zeros((num_classes, num_classes), jnp.int32)
    return lax.scan(add, zeros, (labels, predictions))[0]
