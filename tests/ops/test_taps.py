"""Loss and masks as a GPU computes them, against plain computations in float64, at random sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import whole_volumes
from device import ON_GPU, ROUNDING

from nonlocal_jax.config.schema import Mesh
from nonlocal_jax.evaluation import inference
from nonlocal_jax.evaluation.inference import LowResolution
from nonlocal_jax.evaluation.protocol import Protocol, Windows
from nonlocal_jax.ops import layout, readout, readout_kernel
from nonlocal_jax.ops.cross_entropy import cross_entropy
from nonlocal_jax.ops.resize import resize_matrix
from nonlocal_jax.ops.taps import Axis
from nonlocal_jax.runtime.sharding import make_mesh
from nonlocal_jax.training.losses.cross_entropy import segmentation_loss

LOSSES, MASKS = 3, 10  # random shapes: of the loss, and of masks in each protocol
SOAK, SOAK_PARTS = 300, 6
STRIDE, LONGEST, BATCH, CLASSES = 8, (72, 64), 3, 7


def random_case(rng, dtype, classes):
    low, high = rng.integers(1, 10, 2), rng.integers(1, 40, 2)
    align_corners = bool(rng.integers(2))
    axes = [Axis(int(low[i]), int(high[i]), align_corners) for i in (0, 1)]
    logits = (5 * rng.standard_normal((2, *low, classes))).astype(dtype)
    labels = rng.integers(0, classes, (2, *high), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    return logits, labels, axes


def compute_loss(form, logits, labels, axes):
    """What `whole_volumes.cross_entropy` does, by a form of the loss, or as a CPU trains."""
    if form != "trained":
        start = jnp.zeros((), jnp.int32)
        sums, gradient = cross_entropy(logits, labels, start, *axes, form)
        return *sums, gradient

    def summed(logits):
        loss, accuracy = segmentation_loss(logits, labels, axes[0].align_corners)
        return loss * labels.size, accuracy

    (loss, accuracy), gradient = jax.value_and_grad(summed, has_aux=True)(logits)
    counted = jnp.sum(labels != 255, dtype=jnp.int32)
    return loss, jnp.round(accuracy * counted.astype(accuracy.dtype)), counted, gradient


def check_loss(forms, logits, labels, axes, tolerance):
    """Compares forms with the definition; returns the largest errors of loss and gradient."""
    run = jax.jit(lambda x, y: [compute_loss(form, x, y, axes) for form in forms])
    found, worst = jax.device_get(run(logits, labels)), np.zeros(2)
    loss, right, counted, expected = whole_volumes.cross_entropy(
        logits, labels, axes[0].align_corners
    )
    for actual, form in zip(found, forms, strict=True):
        assert int(actual[2]) == counted and (not counted or int(actual[1]) == right), form
        assert actual[3].dtype == logits.dtype
        errors = abs(actual[0] - loss), np.abs(actual[3] - expected).max()
        errors = np.array(errors) / np.maximum((abs(loss), np.abs(expected).max()), 1e-30)
        # A CPU's sum of a thousand losses, one after the other, is off by some 1e-6 of itself.
        bounds = ROUNDING * tolerance * np.array([1 if form == "trained" else 5, 1])
        assert (errors <= bounds).all(), f"{form}: {errors}"
        worst = np.maximum(worst, errors)
    return worst


@pytest.mark.parametrize("wide", [False, True])
def test_the_loss_by_taps_is_that_of_whole_volumes(wide):
    rng = np.random.default_rng(wide)
    with jax.enable_x64(wide):
        for _ in range(LOSSES):
            case = random_case(rng, np.float64 if wide else np.float32, int(rng.integers(2, 9)))
            check_loss(["taps"], *case, 1e-13 if wide else 1e-6)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(SOAK_PARTS))
@pytest.mark.parametrize("wide", [False, True])
def test_the_loss_is_that_of_whole_volumes_at_300_shapes(wide, part, interpreted):
    """As a CPU computes it, and as a GPU does; some by the GPU's kernels, which know no float64."""
    rng, worst = np.random.default_rng((wide, part)), np.zeros(2)
    with jax.enable_x64(wide):
        for number in range(SOAK // SOAK_PARTS):
            case = random_case(rng, np.float64 if wide else np.float32, int(rng.integers(2, 9)))
            forms = ["trained", "taps", *(["kernel"] if number % 10 == 0 and not wide else [])]
            worst = np.maximum(worst, check_loss(forms, *case, 1e-13 if wide else 1e-6))
    print(f"\nlargest errors of loss and gradient, {'64' if wide else '32'} bits: {worst}")


@pytest.mark.parametrize("first", [0, 5, 11])
def test_some_rows_of_labels_give_their_part_of_the_loss(first):
    rng = np.random.default_rng(first)
    with jax.enable_x64(True):
        logits, labels, axes = random_case(rng, np.float64, 5)
        axes[0] = axes[0]._replace(target=29)
        labels = rng.integers(0, 5, (2, 29, axes[1].target), dtype=np.uint8)
        part = np.where((np.arange(29) >= first)[None, :, None], labels, np.uint8(255))
        _, _, _, expected = whole_volumes.cross_entropy(logits, part, axes[0].align_corners)
        place = jnp.asarray(first, jnp.int32)
        _, gradient = jax.jit(lambda x, y, i: cross_entropy(x, y, i, *axes, "taps"))(
            logits, labels[:, first:], place
        )
        np.testing.assert_allclose(gradient, expected, atol=1e-13)


@pytest.mark.parametrize("form", ["taps", "kernel"])
def test_a_label_that_is_no_class_makes_the_loss_nan(form, interpreted):
    logits, labels = np.zeros((1, 2, 2, 5), np.float32), np.zeros((1, 4, 4), np.uint8)
    axis, start = Axis(2, 4, False), jnp.zeros((), jnp.int32)
    for label, is_nan in ((4, False), (5, True), (255, False)):
        labels[0, 1, 1] = label
        assert np.isnan(cross_entropy(logits, labels, start, axis, axis, form)[0].loss) == is_nan


@pytest.fixture
def interpreted(monkeypatch):
    """Kernels of small tiles that run on a CPU; a GPU has the kernels themselves."""
    if ON_GPU:
        return
    monkeypatch.setattr(readout_kernel, "INTERPRET", True)
    monkeypatch.setattr(readout_kernel, "BLOCK_COLUMNS", 16)


@pytest.mark.parametrize("seed", range(2))
def test_the_kernels_loss_is_that_of_whole_volumes(seed, interpreted):
    rng = np.random.default_rng(seed)
    case = random_case(rng, np.float32, int(rng.integers(2, 40)))
    check_loss(["kernel"], *case, 1e-6)


def test_the_kernels_take_rows_that_begin_anywhere(interpreted):
    rng = np.random.default_rng(0)
    axes = [Axis(4, 30, False), Axis(3, 9, False)]
    logits = rng.standard_normal((1, 4, 3, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (1, 30, 9), dtype=np.uint8)
    part = np.where((np.arange(30) >= 7)[None, :, None], labels, np.uint8(255))
    loss, _, _, expected = whole_volumes.cross_entropy(logits, part, axes[0].align_corners)
    sums, gradient = cross_entropy(
        logits, labels[:, 7:], jnp.asarray(7, jnp.int32), *axes, "kernel"
    )
    np.testing.assert_allclose(sums.loss, loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


PROTOCOLS = {
    "whole": Protocol(LONGEST, False),
    "aligned": Protocol(LONGEST, True),
    "slide": Protocol(LONGEST, False, windows=Windows((33, 25), (21, 17))),
    "aligned slide": Protocol(LONGEST, True, windows=Windows((24, 40), (8, 25))),
}


def scores_of(views, protocol):
    """How `views` random logits of a batch are resized, by the batch's sizes, traced."""
    canvas, lengths = (75, 66), LONGEST

    def make(logits, input_sizes, sizes):
        windows = protocol.windows_of(lengths)
        matrices = [
            inference._axis_matrices(
                input_sizes[:, axis],
                sizes[:, axis],
                axis,
                lengths=(logits.shape[2 + axis], lengths[axis], canvas[axis]),
                stride=STRIDE,
                protocol=protocol,
            )
            for axis in (0, 1)
        ]
        rows, columns = matrices
        turned = inference._reverse_rows(columns, sizes[:, 1])
        return [
            LowResolution(logits[view], rows, (columns, turned)[view % 2], windows)
            for view in range(views)
        ]

    return make


def logits_shape(protocol):
    if protocol.windows is None:
        return tuple(-(-length // STRIDE) for length in LONGEST)
    seen = np.minimum(protocol.windows.size, LONGEST)
    return tuple(np.array(protocol.windows_of(LONGEST)) * -(-seen // STRIDE))


def plain_scores(scores):
    total = 0.0
    for logits, rows, columns, _ in scores:
        arrays = (np.asarray(x, np.float64) for x in (rows, logits, columns))
        full = np.einsum("nHa,nabc,nWb->nHWc", *arrays)
        if len(scores) > 1:
            full = np.exp(full - full.max(-1, keepdims=True))
            full /= full.sum(-1, keepdims=True)
        total = total + full
    return total


def check_masks(form, protocol, views, count, wide=False):
    rng = np.random.default_rng(views)
    make = scores_of(views, protocol)

    @jax.jit
    def run(logits, input_sizes, sizes):
        scores = make(logits, input_sizes, sizes)
        windows = [score.windows for score in scores]
        resized = [readout.Resized(*score[:3]) for score in scores]
        by_taps = readout.class_indices(resized, windows, form)
        return by_taps, inference.class_indices(scores), [tuple(s) for s in scores]

    for _ in range(count):
        shape = (views, BATCH, *logits_shape(protocol), CLASSES)
        logits = rng.standard_normal(shape).astype(np.float64 if wide else np.float32)
        input_sizes = rng.integers(1, np.array(LONGEST) + 1, (BATCH, 2), np.int32)
        sizes = rng.integers(1, (76, 67), (BATCH, 2), np.int32)
        masks, blocks, scores = jax.device_get(run(logits, input_sizes, sizes))
        volume = plain_scores(scores)
        for n, (height, width) in enumerate(sizes):
            inside = np.s_[n, :height, :width]
            best = np.sort(volume[inside], axis=-1)
            clear = best[..., -1] - best[..., -2] > (1e-12 if wide else 1e-5)
            assert clear.mean() > 0.98
            expected = volume[inside].argmax(-1)[clear]
            np.testing.assert_array_equal(masks[inside][clear], expected)
            np.testing.assert_array_equal(blocks[inside][clear], expected)


@pytest.mark.parametrize(
    ("name", "views"), [("whole", 1), ("aligned", 3), ("slide", 3), ("aligned slide", 1)]
)
def test_masks_by_taps_are_those_of_whole_volumes(name, views):
    check_masks("taps", PROTOCOLS[name], views, MASKS)


def test_masks_by_taps_in_float64():
    with jax.enable_x64(True):
        check_masks("taps", PROTOCOLS["whole"], 1, MASKS, wide=True)


@pytest.mark.parametrize(("name", "views"), [("aligned", 1), ("slide", 1), ("whole", 2)])
def test_the_kernels_masks_are_those_of_whole_volumes(name, views, interpreted):
    check_masks("kernel", PROTOCOLS[name], views, 2)


@pytest.mark.parametrize("form", ["taps", "kernel"])
def test_the_first_of_equal_classes_wins_and_nan_is_no_class(form, interpreted):
    logits = np.zeros((1, 1, 4, 3), np.float32)
    logits[0, 0, 2, 1] = logits[0, 0, 3, 1] = 7.0

    def masks(logits):
        columns = jnp.broadcast_to(jnp.eye(4), (1, 4, 4))
        resized = readout.Resized(jnp.asarray(logits), jnp.ones((1, 1, 1)), columns)
        return np.asarray(readout.class_indices([resized], [(1, 1)], form))

    np.testing.assert_array_equal(masks(logits), [[[0, 0, 1, 1]]])
    logits[0, 0, 1, 2] = np.nan
    assert masks(logits)[0, 0, 1] == 3


@pytest.mark.devices(8)
@pytest.mark.parametrize("form", ["taps", "kernel"])
def test_each_device_of_a_mesh_has_its_own_rows(form, interpreted):
    rng = np.random.default_rng(0)
    logits, labels, axes = random_case(rng, np.float32, 4)
    axes[0] = axes[0]._replace(target=22)  # rows that do not divide over four devices
    labels = rng.integers(0, 4, (2, 22, axes[1].target), dtype=np.uint8)

    def both(logits, labels):
        def part(parts, logits):
            labels, place = parts
            sums, gradient = cross_entropy(logits, labels, place[0, 0], *axes, form)
            return (*sums, jnp.sum(gradient**2))

        place = jnp.broadcast_to(jnp.arange(22, dtype=jnp.int32), labels.shape[:2])
        sums = layout.sum_over_devices(part, (labels, place), logits, fill=255)
        matrices = (jnp.broadcast_to(resize_matrix(*a), (2, a.target, a.source)) for a in axes)
        return sums[:3], readout.class_indices([readout.Resized(logits, *matrices)], [(1, 1)], form)

    expected = jax.jit(both)(logits, labels)
    with jax.set_mesh(make_mesh(Mesh(data=2, spatial=4))):
        (loss, right, counted), masks = jax.jit(both)(logits, labels)
    np.testing.assert_allclose(loss, expected[0][0], rtol=1e-6)
    assert (right, counted) == expected[0][1:]
    np.testing.assert_array_equal(masks, expected[1])
