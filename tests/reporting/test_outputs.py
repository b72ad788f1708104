"""Prediction files: what the servers take, and that a viewer can open them."""

import numpy as np
import pytest
from PIL import Image

from nonlocal_jax.errors import UserError
from nonlocal_jax.evaluation.metrics import Scores
from nonlocal_jax.inputs.datasets import datasets
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
        outputs.write_server_mask(path, mask, datasets.get(name))
        np.testing.assert_array_equal(written(path).ravel(), list(values))
        assert Image.open(path).mode == "L"


def test_index_masks_hold_classes_and_show_colours(tmp_path):
    dataset = datasets.get("cityscapes")
    mask = np.array([[0, 18], [11, 2]], np.uint8)
    outputs.write_mask(tmp_path / "mask.png", mask, dataset.palette)
    np.testing.assert_array_equal(written(tmp_path / "mask.png"), mask)
    shown = np.asarray(Image.open(tmp_path / "mask.png").convert("RGB"))
    np.testing.assert_array_equal(shown, dataset.palette[mask])


def test_an_overlay_has_the_image_above_its_legend(tmp_path):
    image = np.full((40, 300, 3), 100, np.uint8)
    mask = np.zeros((40, 300), np.uint8)
    dataset = datasets.get("camvid")
    outputs.write_overlay(tmp_path / "overlay.png", image, mask, dataset)
    picture = written(tmp_path / "overlay.png")
    assert picture.shape[0] > 40 and picture.shape[1] >= 300
    np.testing.assert_allclose(picture[5, 5], (100 + dataset.palette[0].astype(int)) / 2, atol=1)


@pytest.mark.parametrize("classes", [2, 150])
def test_the_confusion_picture_is_made_for_few_and_many_classes(tmp_path, classes):
    outputs.write_confusion(tmp_path / "confusion.png", Scores(np.eye(classes, dtype=np.int64)))
    assert written(tmp_path / "confusion.png").shape[0] > 300


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    mask = np.zeros((2, 2), np.uint8)
    with pytest.raises(UserError, match=r"file/mask\.png cannot be written"):
        outputs.write_server_mask(tmp_path / "file" / "mask.png", mask, datasets.get("camvid"))
