"""Prediction files: what the servers take, and that a viewer can open them."""

import numpy as np
import pytest
from PIL import Image

from nonlocal_jax.config import schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets
from nonlocal_jax.reporting import outputs


def written(path):
    return np.asarray(Image.open(path))


def test_cityscapes_takes_published_ids_and_ade20k_the_class_plus_one(tmp_path):
    mask = np.arange(18, dtype=np.uint8).reshape(3, 6)
    expected = {
        "cityscapes": [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32],
        "ade20k": range(1, 19),
        "voc12aug": range(18),
    }
    for name, values in expected.items():
        path = tmp_path / name / "mask.png"
        dataset = datasets.describe(schema.Data(name=name))
        own = outputs.server_values(dataset.own_values, dataset.class_names)
        outputs.write_server_mask(path, mask, own)
        np.testing.assert_array_equal(written(path).ravel(), list(values))
        assert Image.open(path).mode == "L"


@pytest.mark.parametrize(
    ("label_map", "reduce_zero_label", "values"),
    [
        ({7: 0, 8: 1, 9: 2}, False, [7, 8, 9]),
        ({7: 1}, True, [7, 2, 3]),
        ({0: 1, 1: 0}, False, [1, 0, 2]),
        ({}, True, [1, 2, 3]),
        ({}, False, [0, 1, 2]),
    ],
)
def test_your_own_data_gets_the_numbers_of_its_own_masks(
    tmp_path, label_map, reduce_zero_label, values
):
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    data = schema.Data(name="folder", label_map=label_map, reduce_zero_label=reduce_zero_label)
    dataset = datasets.describe(data, str(tmp_path))
    np.testing.assert_array_equal(
        outputs.server_values(dataset.own_values, dataset.class_names), values
    )
    table = dataset.label_table
    if table is not None:
        np.testing.assert_array_equal(table[values], [0, 1, 2])


def test_a_class_without_a_number_is_named(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    dataset = datasets.describe(schema.Data(name="folder", label_map={1: 0}), str(tmp_path))
    with pytest.raises(UserError, match=r"stands for class 1 \(b\)"):
        outputs.server_values(dataset.own_values, dataset.class_names)


def test_index_masks_hold_classes_and_show_colours(tmp_path):
    dataset = datasets.describe(schema.Data(name="cityscapes"))
    mask = np.array([[0, 18], [11, 2]], np.uint8)
    outputs.write_mask(tmp_path / "mask.png", mask, dataset.palette)
    np.testing.assert_array_equal(written(tmp_path / "mask.png"), mask)
    shown = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB"))
    np.testing.assert_array_equal(shown, dataset.palette[mask])


def test_an_overlay_has_the_image_above_its_legend(tmp_path):
    image = np.full((40, 300, 3), 100, np.uint8)
    mask = np.zeros((40, 300), np.uint8)
    dataset = datasets.describe(schema.Data(name="camvid"))
    outputs.write_overlay(
        tmp_path / "overlay.png", image, mask, dataset.class_names, dataset.palette
    )
    picture = written(tmp_path / "overlay.png")
    assert picture.shape[0] > 40 and picture.shape[1] >= 300
    np.testing.assert_allclose(picture[5, 5], (100 + dataset.palette[0].astype(int)) / 2, atol=1)


@pytest.mark.parametrize("classes", [2, 150])
def test_the_confusion_picture_is_made_for_few_and_many_classes(tmp_path, classes):
    names = ["$100_$ bill", *map(str, range(1, classes))]  # which is no formula
    counts = np.eye(classes, dtype=np.int64)
    outputs.write_confusion(tmp_path / "confusion.png", counts, names, "mIoU 100.00")
    assert written(tmp_path / "confusion.png").shape[0] > 300


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    mask, values = np.zeros((2, 2), np.uint8), np.arange(2, dtype=np.uint8)
    with pytest.raises(UserError, match=r"file/mask\.png cannot be written"):
        outputs.write_server_mask(tmp_path / "file" / "mask.png", mask, values)


@pytest.mark.parametrize("classes", [2, 12, 150])
def test_nothing_of_the_confusion_picture_is_cut(tmp_path, classes):
    names = [f"{number} is a class with a rather long name" for number in range(classes)]
    title = "aAcc 73.50  mIoU 28.30  mAcc 35.11  mDice 55.12  mFscore 55.12  " * 3
    path = tmp_path / "confusion.png"
    outputs.write_confusion(path, np.eye(classes, dtype=np.int64), names, title)
    picture = np.asarray(Image.open(path).convert("RGB"))
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()
    assert (picture < 128).any()
