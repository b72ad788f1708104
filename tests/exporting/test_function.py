"""The exported function is what the predictor computes, for images of any size."""

import jax
import numpy as np
import pytest
from exports import SLIDE, assert_same, picture, predicted, request
from networks import NUM_CLASSES

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting.function import Exported, fit_size
from nonlocal_jax.exporting.stablehlo import exported
from nonlocal_jax.inputs import transforms

TTA = {"eval.tta_ratios": (0.75, 1.25)}
CASES = {
    "indices": ("indices", False, {}),
    "logits of one pass": ("logits", True, {**TTA, **SLIDE}),
    "average": ("probabilities", True, TTA),
}
SIZES = [(51, 75), (97, 64)]


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_the_predictor_computes(case):
    result, tta, overrides = CASES[case]
    asked = request("", result, tta=tta, **overrides)
    images = np.stack([picture(*SIZES[0], seed=seed) for seed in range(2)])
    found = np.asarray(exported(asked).call(images))
    assert found.dtype == (np.uint8 if result == "indices" else np.float32)
    for image, own in zip(images, found, strict=True):
        assert_same(own, predicted(asked, image))


def test_one_program_is_for_all_sizes():
    asked = request("", "probabilities", **SLIDE, **{"model.align_corners": True})
    call = exported(asked).call
    for size in ((97, 64), (20, 23)):  # several windows, and an image that is smaller than one
        image = picture(*size)
        assert_same(np.asarray(call(image[None]))[0], predicted(asked, image))


@pytest.mark.parametrize("head", ["fcn", "dnl", "gc", "ann", "cc", "da", "ema", "psa"])
def test_heads_are_exported_for_all_sizes(head):
    found = exported(request("", "logits", **{"model.decode_head.name": head}))
    count, rows, columns, classes = found.out_avals[0].shape
    assert not any(isinstance(length, int) for length in (count, rows, columns))
    assert classes == NUM_CLASSES


def test_interlaced_attention_has_its_blocks_in_images_of_any_size():
    asked = request("", "logits", **{"model.decode_head.name": "isa"})
    call = exported(asked).call
    for size in SIZES:
        image = picture(*size)
        assert_same(np.asarray(call(image[None]))[0], predicted(asked, image))


@pytest.mark.soak
@pytest.mark.parametrize("branches", ["both", "collect", "distribute"])
def test_the_psa_head_is_exported_for_all_sizes(branches):
    head = {"name": "psa", "mask_size": (5, 7), "branches": branches}
    asked = request(
        "", "logits", **{f"model.decode_head.{key}": value for key, value in head.items()}
    )
    call = exported(asked).call
    for size in ((51, 75), (60, 64), (64, 60)):  # with a rest on both axes, on none, on one
        image = picture(*size)
        assert_same(np.asarray(call(image[None]))[0], predicted(asked, image))


def test_a_mask_for_each_position_is_for_one_size_only():
    head = {"name": "psa", "mask_size": (20, 20), "compact": True}
    asked = request(
        "", "logits", **{f"model.decode_head.{key}": value for key, value in head.items()}
    )
    with pytest.raises(UserError, match=r"compact mask.* can't be exported"):
        exported(asked)


def test_scores_that_are_not_finite_are_no_class():
    asked = request()
    variables = dict(asked.restored.variables)
    variables["decode_head/classifier/bias"] = np.full(NUM_CLASSES, np.nan, np.float32)
    found = jax.jit(Exported(asked))(variables, picture(*SIZES[0])[None])
    assert (np.asarray(found) == NUM_CLASSES).all()


@pytest.mark.parametrize("scale", [(2048, 1024), (2048, 512)], ids=str)
def test_published_scales_give_the_sizes_of_evaluation(scale):
    images = np.random.default_rng(0).integers(1, 4097, (4000, 2)).tolist()
    # float64 can only differ where a side is an exact half: next to one, it is 1/8192 away.
    size, side = np.ogrid[:4097, 1:4097]
    for bound in scale:
        halves = np.argwhere((2 * size * bound) % (2 * side) == side)
        images += np.add(halves, (0, 1))[halves[:, 0] > 0].tolist()
    assert len(images) > 6000
    for image in images:
        assert fit_size(*image, scale) == transforms.fit_size(*image, scale), image


def test_other_scales_give_at_most_a_pixel_more():
    # 11 * 240 / 352 is 7.5, and float64 rounds 240 / 352 down.
    assert transforms.fit_size(11, 352, (240, 180)) == (7, 240)
    assert fit_size(11, 352, (240, 180)) == (8, 240)
