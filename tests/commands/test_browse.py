"""The contact sheet, the class frequencies, and the pictures they are made of."""

import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import synthetic_trees

from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import frequencies
from nonlocal_jax.inputs.datasets.dataset import Dataset, distinct_colours
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.reporting import pictures
from nonlocal_jax.reporting.sheet import contact_sheet

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PALETTE = np.array([[255, 0, 0], [0, 0, 200]], np.uint8)


def test_overlay_mixes_colours_and_leaves_ignored_pixels():
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0, 1], [255, 0]], np.uint8)
    mixed = pictures.overlay(image, mask, PALETTE, opacity=0.25)
    assert mixed[0, 0].tolist() == [139, 75, 75]
    assert mixed[0, 1].tolist() == [75, 75, 125]
    assert mixed[1, 0].tolist() == [100, 100, 100]
    solid = pictures.overlay(image, mask, PALETTE, opacity=1.0)
    assert solid[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(UserError, match="mask of"):
        pictures.overlay(image, mask[:1], PALETTE)


def test_a_legend_shows_every_colour_and_fits_its_width():
    names = [f"class {number}" for number in range(30)]
    palette = distinct_colours(30)
    picture = pictures.legend(names, palette, width=400)
    assert picture.shape[1] == 400
    for colour in palette:
        assert (picture == colour).all(axis=-1).sum() >= 14 * 14
    assert pictures.legend([], palette[:0]).ndim == 3


def test_a_grid_places_pictures_in_rows():
    tiles = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = pictures.grid(tiles, columns=2)
    assert [(sheet == value).all(axis=-1).sum() for value in (10, 20, 30)] == [24, 24, 24]
    rows, columns = np.nonzero((sheet == 30).all(axis=-1))
    assert rows.min() > 8 and columns.max() < 12


def test_frequencies():
    labels = [np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 0, 0, 0]], np.uint8)]
    pixels, masks = frequencies.count(labels)
    assert pixels[[0, 1, 255]].tolist() == [6, 1, 1] and masks[[0, 1, 255]].tolist() == [2, 1, 1]
    names = ("road", "sky", "car")
    dataset = Dataset(name="folder", class_names=names, palette=distinct_colours(3))
    lines = frequencies.table(dataset, pixels, masks).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["0", "road"], ["1", "sky"], ["2", "car"]]
    assert "85.714" in lines[1] and "14.286" in lines[2] and "12.500%" in lines[-1]


def test_the_sheet_shows_the_runs_first_examples(tmp_path):
    synthetic_trees.camvid(tmp_path, train=4)
    data = Data(name="camvid", scale=(120, 90), crop_size=(60, 80))
    inputs = Inputs(data=data, data_dir=str(tmp_path), num_classes=11)
    sheet = contact_sheet(inputs, count=5)
    assert sheet.shape[1] == 2 * (160 + 4) + 4 and sheet.shape[0] > 3 * 60
    np.testing.assert_array_equal(sheet, contact_sheet(inputs, count=5))


def test_the_command(tmp_path):
    synthetic_trees.camvid(tmp_path / "data")
    out = tmp_path / "new" / "sheet.png"
    arguments = ["--config=configs/camvid.py", f"--config.data_dir={tmp_path / 'data'}"]
    arguments += [f"--output={out}", "--count=3"]
    command = [sys.executable, "-m", "nonlocal_jax.browse", *arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert cv2.imread(str(out)).ndim == 3
    assert "Classes in 3 of 3 training masks" in done.stdout and str(out) in done.stdout
