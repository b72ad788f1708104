"""Augmentation equals the reference's, given the same parameters, and draws like it."""

import json
import os
import pathlib
import subprocess
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonlocal_jax.config import common
from nonlocal_jax.inputs import photometric, transforms

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CORRECT = 1e-5


def apply(image, label, case):
    """Image and label through our transforms with the parameters of `case`, as on the device."""
    crop_size = tuple(case["crop_size"])
    size = transforms.fit_size(*label.shape, tuple(case["scale"]))
    top, left, *_ = case["box"]
    height, width = (min(c, s) for c, s in zip(crop_size, size, strict=True))
    box = (top, left, height, width)
    element = {
        "image": transforms.resize_crop_image(image, size, box),
        "label": transforms.resize_crop_label(label, size, box),
    }
    if case["flip"]:
        element = transforms.flip(element, axis=1)
    distortion = photometric.Distortion(**case["distortion"])
    element["image"] = photometric.distort(element["image"], distortion)
    return transforms.pad(element, crop_size)


def normalised(padded):
    """What the network sees: normalised, then 0 in the padding."""
    image = (padded["image"].astype(np.float64) - MEAN) / STD
    height, width = padded["size"]
    image[height:], image[:, width:] = 0, 0
    return image


def assert_equal_to_reference(ours, image, label, case):
    np.testing.assert_array_equal(ours["label"], label)
    difference = np.abs(normalised(ours) - image).max()
    assert difference < CORRECT, case


def test_fixed_parameters_give_the_reference_images():
    golden = np.load(GOLDEN / "transforms.npz")
    for number, case in enumerate(json.loads(str(golden["cases"]))):
        index = case["image"]
        ours = apply(golden[f"image_{index}"], golden[f"label_{index}"], case)
        expected = golden[f"out_image_{number}"], golden[f"out_label_{number}"]
        assert_equal_to_reference(ours, *expected, case)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    ratio=st.one_of(st.floats(0.2, 4.0), st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0])),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    crop=st.tuples(st.integers(1, 200), st.integers(1, 200)),
)
def test_resizing_the_window_equals_resizing_then_cropping(size, ratio, corner, crop):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    target = tuple(max(int(side * ratio + 0.5), 1) for side in size)
    height, width = (min(c, t) for c, t in zip(crop, target, strict=True))
    top, left = (int(f * (t - c)) for f, t, c in zip(corner, target, (height, width), strict=True))
    whole = transforms.resize_image(image, target)
    nearest = cv2.resize(image[..., 0], target[::-1], interpolation=cv2.INTER_NEAREST)
    window = (slice(top, top + height), slice(left, left + width))
    box = (top, left, height, width)
    np.testing.assert_array_equal(transforms.resize_crop_image(image, target, box), whole[window])
    np.testing.assert_array_equal(
        transforms.resize_crop_label(np.ascontiguousarray(image[..., 0]), target, box),
        nearest[window],
    )


def test_test_time_sizes():
    assert transforms.test_sizes(360, 480, (2048, 512), (0.5, 1.0, 1.75)) == [
        (256, 341),
        (512, 683),
        (896, 1195),
    ]
    # 769 rows: 2049 * 0.5 is cut to 1024, 1025 * 0.5 to 512.
    assert transforms.test_sizes(1024, 2048, (2049, 1025), (0.5, 1.0)) == [
        (512, 1024),
        (1025, 2049),
    ]


def same_distribution(ours, theirs):
    """Kolmogorov-Smirnov: the largest distance of the two distribution functions is by chance."""
    ours, theirs = np.sort(ours), np.sort(theirs)
    everything = np.concatenate([ours, theirs])
    distance = np.abs(
        np.searchsorted(ours, everything, "right") / len(ours)
        - np.searchsorted(theirs, everything, "right") / len(theirs)
    ).max()
    limit = 1.95 * np.sqrt(1 / len(ours) + 1 / len(theirs))  # one test in a thousand
    assert distance < limit, (distance, limit)


@pytest.fixture(scope="module")
def draws():
    return np.load(GOLDEN / "draws.npz")


@pytest.mark.parametrize(
    ("key", "row"), [("ade20k", common.ade20k), ("cityscapes", common.cityscapes_769)]
)
def test_scales_are_drawn_like_the_reference(draws, key, row):
    data = row().data
    transform = transforms.RandomResizedCrop(data.scale, data.ratio_range, data.crop_size)
    rng = np.random.default_rng(1)
    side = min(data.scale)  # a square image: its size is the drawn short side
    drawn = [transform.draw_size(side, side, rng) for _ in range(2000)]
    same_distribution([height for height, _ in drawn], draws[f"scales_{key}"].min(axis=1))


def test_crops_are_drawn_like_the_reference(draws):
    label = draws["crop_label"]
    transform = transforms.RandomResizedCrop((1, 1), (1.0, 1.0), (64, 64), max_class_fraction=0.75)
    rng = np.random.default_rng(2)
    corners = np.array([transform.draw_box(label, label.shape, rng)[0][:2] for _ in range(2000)])
    for axis in (0, 1):
        same_distribution(corners[:, axis], draws["corners"][:, axis])
    free = transforms.RandomResizedCrop((1, 1), (1.0, 1.0), (64, 64), max_class_fraction=1.0)
    corners = np.array([free.draw_box(label, label.shape, rng)[0][:2] for _ in range(2000)])
    with pytest.raises(AssertionError):  # the rule shows in the distribution
        same_distribution(corners[:, 1], draws["corners"][:, 1])
    assert corners.min() == 0 and tuple(corners.max(axis=0)) == (96, 176)


def test_distortions_are_drawn_like_the_reference(draws):
    rng = np.random.default_rng(3)
    drawn = [photometric.draw(rng) for _ in range(4000)]
    for column, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        ours = np.array([getattr(d, name) for d in drawn], np.float32)
        theirs = draws["distortions"][:, column]
        same_distribution(np.isnan(ours), np.isnan(theirs))
        same_distribution(ours[~np.isnan(ours)], theirs[~np.isnan(theirs)])
        for end in (np.nanmin, np.nanmax):  # bounds show better at the ends
            assert abs(end(ours) - end(theirs)) < 0.01 * np.ptp(theirs[~np.isnan(theirs)])
    same_distribution([d.contrast_first for d in drawn], draws["distortions"][:, 4])
    assert {d.hue for d in drawn} - {None} == set(range(-18, 18))


def test_flips_half_the_time():
    element = {"image": np.zeros((1, 2, 3), np.uint8), "label": np.array([[1, 2]], np.uint8)}
    rng = np.random.default_rng(4)
    flip = transforms.RandomFlip(0.5)
    count = sum(flip.random_map(element, rng)["label"][0, 0] == 2 for _ in range(2000))
    assert 900 < count < 1100


def test_the_tenth_redraw_is_taken_as_it_is():
    label = np.zeros((50, 50), np.uint8)  # one class: no place satisfies the rule
    transform = transforms.RandomResizedCrop((1, 1), (1.0, 1.0), (10, 10), max_class_fraction=0.75)

    class Counting(np.random.Generator):
        calls = 0

        def integers(self, high):
            Counting.calls += 1
            return high - 1

    box, cropped = transform.draw_box(label, (50, 50), Counting(np.random.PCG64()))
    assert box == (40, 40, 10, 10) and cropped.shape == (10, 10)
    assert Counting.calls == 2 * 11


def test_class_fraction_leaves_ignored_pixels_out():
    label = np.full((10, 10), 255, np.uint8)
    assert transforms.class_fraction(label) == 1.0
    label[0, :3] = 4
    assert transforms.class_fraction(label) == 1.0
    label[1, 0] = 254
    assert transforms.class_fraction(label) == 0.75


def test_vertical_flip_and_cutout():
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (8, 12, 3), dtype=np.uint8)
    element = {"image": image, "label": image[..., 0].copy()}
    upside_down = transforms.RandomFlip(1.0, axis=0).random_map(element, rng)
    np.testing.assert_array_equal(upside_down["image"], image[::-1])
    np.testing.assert_array_equal(upside_down["label"], image[::-1, :, 0])
    cut = transforms.RandomCutout(1.0, holes=2, size=(3, 4)).random_map(element, rng)
    black = (cut["image"] == 0).all(axis=-1)
    assert 1 <= black.sum() <= 24
    np.testing.assert_array_equal(cut["image"][~black], image[~black])
    np.testing.assert_array_equal(cut["label"], element["label"])
    assert image.min() > 0, "the given image is left alone"


def test_rotation_turns_clockwise_and_ignores_the_corners():
    image = np.full((9, 9, 3), 100, np.uint8)
    label = np.zeros((9, 9), np.uint8)
    label[4, 8] = 7  # to the right of the centre
    turned = transforms.rotate({"image": image, "label": label}, 90.0)
    assert turned["label"][8, 4] == 7  # below it
    turned = transforms.rotate({"image": image, "label": label}, 45.0)
    assert turned["label"][0, 0] == 255 and (turned["image"][0, 0] == 0).all()
    assert turned["label"][4, 4] == 0 and (turned["image"][4, 4] == 100).all()


def test_padding_is_right_and_below():
    element = {"image": np.ones((2, 3, 3), np.uint8), "label": np.ones((2, 3), np.uint8)}
    padded = transforms.pad(element, (4, 5))
    assert padded["image"].shape == (4, 5, 3) and padded["size"].tolist() == [2, 3]
    assert (padded["label"][2:] == 255).all() and (padded["label"][:, 3:] == 255).all()
    assert (padded["label"][:2, :3] == 1).all() and padded["image"].sum() == 18


# --- The running reference ------------------------------------------------------------------------

ROWS = {
    "cityscapes": (common.cityscapes, "512x1024", ("40k", "80k"), "cityscapes"),
    "cityscapes_769": (common.cityscapes_769, "769x769", ("40k", "80k"), "cityscapes"),
    "ade20k": (common.ade20k, "512x512", ("80k", "160k"), "ade20k"),
    "voc12aug": (common.voc12aug, "512x512", ("20k", "40k"), "voc12aug"),
}


def reference_rows():
    for settings_of_row, crop, schedules, name in ROWS.values():
        for schedule in schedules:
            for depth in (50, 101):
                row = f"nonlocal_r{depth}-d8_{crop}_{schedule}_{name}"
                yield row, settings_of_row().data


def random_cases(row, data, sizes, count, rng):
    """Parameters as training would draw them, for images of the given sizes."""
    transform = transforms.RandomResizedCrop(data.scale, data.ratio_range, data.crop_size)
    for _ in range(count):
        image = int(rng.integers(len(sizes)))
        ratio = rng.uniform(*data.ratio_range)
        scale = tuple(int(side * ratio) for side in data.scale)
        size = transforms.fit_size(*sizes[image], scale)
        (top, left, *_), _ = transform.draw_box(np.zeros(sizes[image], np.uint8), size, rng)
        distortion = vars(photometric.draw(rng))
        yield {
            "row": row,
            "image": image,
            "scale": scale,
            "crop_size": data.crop_size,
            "box": (top, left, *data.crop_size),
            "flip": bool(rng.integers(2)),
            "distortion": distortion,
        }


@pytest.mark.parity
@pytest.mark.parametrize(("row", "data"), reference_rows(), ids=lambda value: str(value)[:45])
def test_every_row_equals_the_running_reference(row, data, shared, tmp_path):
    python = os.environ.get("NONLOCAL_JAX_PEER")
    if not python:
        pytest.skip("no reference: set NONLOCAL_JAX_PEER to its python")
    rng = np.random.default_rng(zlib.crc32(row.encode()))
    paths = sorted((shared / "camvid" / "images" / "train").glob("*.jpg"))
    arrays, sizes = {}, []
    for index, size in enumerate([(360, 480), (213, 320), (1024, 2048), (500, 333), (90, 700)]):
        path = paths[int(rng.integers(len(paths)))]
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        label = cv2.imread(str(path).replace("images", "labels")[:-3] + "png", -1)
        arrays[f"image_{index}"] = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
        arrays[f"label_{index}"] = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
        sizes.append(size)
    cases = list(random_cases(row, data, sizes, 25, rng))
    np.savez(tmp_path / "in.npz", cases=json.dumps(cases), **arrays)
    script = GOLDEN / "make_transforms.py"
    command = [python, "-W", "ignore", script, "cases", tmp_path / "in.npz", tmp_path]
    subprocess.run(command, check=True)
    for number, case in enumerate(cases):
        expected = np.load(tmp_path / f"{number}.npz")
        index = case["image"]
        ours = apply(arrays[f"image_{index}"], arrays[f"label_{index}"], case)
        assert_equal_to_reference(ours, expected["image"], expected["label"], case)
