"""What the package computes block by block, written plainly: scores at full resolution at once."""

import jax
import jax.numpy as jnp

from nonlocal_jax.ops.resize import resize_matrix


def resize_bilinear(x, size, *, align_corners):
    """[n, h, w, c] at `size` (height, width), as `torch.nn.functional.interpolate` does it."""
    rows = resize_matrix(x.shape[1], size[0], align_corners).astype(x.dtype)
    columns = resize_matrix(x.shape[2], size[1], align_corners).astype(x.dtype)
    return jnp.einsum("Hh,nhwc,Ww->nHWc", rows, x, columns, precision=jax.lax.Precision.HIGHEST)


def normalize_batch(x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    inverse = 1 / jnp.sqrt(jnp.mean((x - mean) ** 2, axes) + 1e-5)
    return (x - mean) * inverse * scale + bias


def loss_and_accuracy(logits, labels, align_corners):
    scores = resize_bilinear(logits, labels.shape[1:], align_corners=align_corners)
    counted = labels != 255
    picked = jnp.where(counted, labels, 0).astype(jnp.int32)[..., None]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), picked, axis=-1)[..., 0]
    right = (jnp.argmax(scores, -1).astype(labels.dtype) == labels) & counted
    accuracy = jnp.sum(right) / jnp.maximum(jnp.sum(counted), 1)
    return jnp.sum(jnp.where(counted, losses, 0.0)) / labels.size, accuracy


SCALE = 0.25  # of attention logits


def naive_softmax(query, key, value, key_valid=None):
    logits = jnp.einsum("nqc,nkc->nqk", query, key) * SCALE
    where = None if key_valid is None else key_valid[:, None, :]
    return jnp.einsum("nqk,nkd->nqd", jax.nn.softmax(logits, axis=-1, where=where), value)


def value_and_gradients(function, *arrays):
    def loss(*arrays):
        result = function(*arrays)
        return jnp.sum(jnp.sin(result)), result

    (_, result), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)
    return result, *gradients
