"""Masks at random shapes, in every protocol, by every form: what the definition says in float64."""

import jax
import numpy as np
import pytest
import whole_volumes
from device import ON_GPU
from lookup import Lookup, plain_lookup

from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.inference import Scaled
from nonlocal_jax.evaluation.protocol import Protocol, Windows
from nonlocal_jax.ops import readout, readout_kernel

# Images in all, a batch, and how many batches share their arrays' shapes, and so a program.
SOAK, BATCH, DRAWS = 300, 6, 5
SCALES, LONGEST = 3, 80
MODES = ("whole", "slide", "ms+flip", "slide ms+flip")


def random_protocol(rng, mode, align_corners):
    """With windows of random size and stride; and lengths of the arrays of each scale."""
    scales = SCALES if "ms" in mode else 1
    lengths = [tuple(rng.integers(1, LONGEST, 2).tolist()) for _ in range(scales)]
    windows = None
    if "slide" in mode:
        size = rng.integers(np.ceil(np.max(lengths, axis=0) / 3), LONGEST)
        stride = rng.integers(np.ceil(size / 2), size + 1)
        windows = Windows(tuple(size.tolist()), tuple(stride.tolist()))
    flip = "flip" in mode
    return Protocol((1, 1), align_corners, (1.0,) * scales, flip, windows), lengths


def random_sizes(rng, lengths):
    """Sizes of a batch's images, a quarter of which fill their array."""
    sizes = rng.integers(1, np.array(lengths) + 1, (BATCH, 2), np.int32)
    return np.where(rng.random((BATCH, 1)) < 0.25, np.int32(lengths), sizes)


def program(protocol, canvas, forms):
    @jax.jit
    def run(scales, sizes):
        scores = inference.low_resolution_scores(Lookup(), scales, sizes, canvas, protocol)
        windows = [score.windows for score in scores]
        resized = [readout.Resized(*score[:3]) for score in scores]
        return [
            readout.class_indices(resized, windows, form)
            if form != "default"
            else inference.class_indices(scores)
            for form in forms
        ]

    return run


def check_masks(rng, mode, align_corners, forms, bound):
    """One program, on DRAWS batches; returns how many pixels there were, and how many differ.

    Another class than the definition's must be as probable, but for `bound`.
    """
    protocol, lengths = random_protocol(rng, mode, align_corners)
    canvas = tuple(rng.integers(1, LONGEST, 2).tolist())
    run, pixels, different = program(protocol, canvas, forms), 0, 0
    for _ in range(DRAWS):
        inputs = [random_sizes(rng, length) for length in lengths]
        images = [rng.integers(0, 256, (BATCH, *length, 3), np.uint8) for length in lengths]
        sizes = random_sizes(rng, canvas)
        scales = tuple(Scaled(*pair) for pair in zip(images, inputs, strict=True))
        masks = dict(zip(forms, jax.device_get(run(scales, sizes)), strict=True))
        for n, (height, width) in enumerate(sizes):
            seen = [x[n, : s[n, 0], : s[n, 1]] for x, s in zip(images, inputs, strict=True)]
            expected = whole_volumes.probabilities(seen, (height, width), protocol, plain_lookup)
            for form, found in masks.items():
                chosen = found[n, :height, :width, None].astype(int)
                missing = expected.max(-1) - np.take_along_axis(expected, chosen, -1)[..., 0]
                case = f"{form}, {protocol}, {lengths}, {canvas}, {height} x {width}"
                assert missing.max() <= bound, f"{missing.max()}: {case}"
                pixels += missing.size
                different += (missing > 0).sum()
    return pixels, different


def check_all(mode, align_corners, forms, images, bound):
    rng = np.random.default_rng((MODES.index(mode), align_corners, len(forms)))
    programs = range(-(-images // (BATCH * DRAWS)))
    counts = [check_masks(rng, mode, align_corners, forms, bound) for _ in programs]
    pixels, different = np.sum(counts, axis=0)
    print(f"\n{mode}, {align_corners=}, {forms}: {different} of {pixels} pixels differ")
    assert different <= 1e-4 * pixels


@pytest.mark.soak
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_masks_of_300_images(mode, align_corners):
    """As a CPU reads them out, and by taps. Both round positions to float32."""
    check_all(mode, align_corners, ["default", "taps"], SOAK, 2e-5)


@pytest.mark.soak
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_masks_of_300_images_in_float64(mode, align_corners):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        check_all(mode, align_corners, ["default", "taps"], SOAK, 1e-13)


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_masks_of_some_images_by_the_gpus_kernels(mode, monkeypatch):
    if not ON_GPU:
        monkeypatch.setattr(readout_kernel, "INTERPRET", True)
        monkeypatch.setattr(readout_kernel, "BLOCK_COLUMNS", 16)
    for align_corners in (False, True):
        check_all(mode, align_corners, ["kernel"], 30, 2e-5)
