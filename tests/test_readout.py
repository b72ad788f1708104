"""Masks by taps are those of whole score volumes, in every protocol, at any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_inference import network

from nonlocal_jax import inference
from nonlocal_jax.inference import Protocol, Scaled, Windows
from nonlocal_jax.ops import readout

BATCH, SHAPES = 2, 15


def random_protocol(rng, kind):
    align_corners = bool(rng.integers(2))
    size = tuple(int(x) for x in rng.integers(9, 70, 2))
    windows = None
    if "slide" in kind:
        window = rng.integers(9, 40, 2)
        stride = np.maximum(window * rng.uniform(0.3, 1.0, 2), 1).astype(int)
        windows = Windows(tuple(map(int, window)), tuple(map(int, stride)))
    ratios = (0.7, 1.0) if "several" in kind else (1.0,)
    return Protocol(size, align_corners, ratios, flip="several" in kind, windows=windows)


def random_scales(rng, protocol):
    """Images of mixed sizes, padded with noise; their original sizes; a canvas that holds them."""
    sizes = rng.integers(1, 80, (BATCH, 2))
    inputs = [protocol.input_sizes(tuple(size)) for size in sizes]
    scales = []
    for scale in range(len(protocol.ratios)):
        own = np.array([size[scale] for size in inputs], np.int32)
        shape = own.max(axis=0) + rng.integers(0, 4, 2)
        images = rng.integers(0, 256, (BATCH, *shape, 3), np.uint8)
        scales.append(Scaled(jnp.asarray(images), jnp.asarray(own)))
    canvas = tuple(int(x) for x in sizes.max(axis=0) + rng.integers(0, 4, 2))
    return tuple(scales), jnp.asarray(sizes, jnp.int32), canvas


def volumes(scores):
    """The scores that are compared, float64 [n, H, W, classes], by whole matrices."""
    total = 0.0
    for logits, rows, columns, _ in scores:
        arrays = (np.asarray(x, np.float64) for x in (rows, logits, columns))
        full = np.einsum("nHa,nabc,nWb->nHWc", *arrays)
        if len(scores) > 1:
            full = np.exp(full - full.max(-1, keepdims=True))
            full /= full.sum(-1, keepdims=True)
        total = total + full
    return total


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", ["whole", "slide", "several", "several slide"])
def test_masks_by_taps_are_those_of_whole_volumes(kind, wide):
    rng = np.random.default_rng(sum(map(ord, kind)))
    with jax.enable_x64(wide):
        for _ in range(SHAPES):
            protocol = random_protocol(rng, kind)
            scales, sizes, canvas = random_scales(rng, protocol)
            scores = inference.low_resolution_scores(network, scales, sizes, canvas, protocol)
            if wide:
                scores = [s._replace(logits=s.logits.astype(jnp.float64)) for s in scores]
            blocks = np.asarray(inference.class_indices(scores))
            windows = [score.windows for score in scores]
            resized = [readout.Resized(*score[:3]) for score in scores]
            masks = np.asarray(readout.class_indices(resized, windows, "taps"))
            volume = volumes(scores)
            for n, (height, width) in enumerate(np.asarray(sizes)):
                inside = np.s_[n, :height, :width]
                best = np.sort(volume[inside], axis=-1)
                clear = best[..., -1] - best[..., -2] > (1e-12 if wide else 1e-5)
                assert clear.mean() > 0.98
                np.testing.assert_array_equal(masks[inside][clear], blocks[inside][clear])
                np.testing.assert_array_equal(
                    masks[inside][clear], volume[inside].argmax(-1)[clear]
                )
