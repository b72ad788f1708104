"""The demonstration, shrunk to three steps, and the pieces that it prints and draws."""

import numpy as np
from PIL import Image

from nonlocal_jax import demo
from nonlocal_jax.checkpoints import training
from nonlocal_jax.config import command_line
from nonlocal_jax.evaluation.metrics import Scores
from nonlocal_jax.inputs.datasets import scenes


def test_it_trains_twice_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(scenes.COUNTS, "val", 8)
    config = command_line.load_config("configs/demo.py", total_steps=3)
    scores = demo.run(config, tmp_path)

    assert set(scores) == {"fcn", "nonlocal"}
    pixels = 8 * scenes.HEIGHT * scenes.WIDTH
    assert all(result.pixels == pixels for result in scores.values())
    for head in scores:
        variables, _ = training.load_model(tmp_path / head)
        has_block = any(name.startswith("decode_head/non_local/") for name in variables)
        assert has_block == (head == "nonlocal")
    assert demo.compare(scores) in capsys.readouterr().out
    for index in range(demo.PICTURES):
        picture = np.asarray(Image.open(tmp_path / f"scene_{index}.png"))
        scene, _ = scenes.make_scene("val", index)
        np.testing.assert_array_equal(picture[16:80, :512], scene)


def test_the_table_has_both_networks_side_by_side():
    scores = {
        "fcn": Scores(np.array([[3, 1], [0, 0]]), ("a", "b")),
        "nonlocal": Scores(np.array([[4, 0], [0, 4]]), ("a", "b")),
    }
    assert [line.split() for line in demo.compare(scores).splitlines()[1:]] == [
        ["a", "75.0", "100.0"],
        ["b", "0.0", "100.0"],
        ["mIoU", "37.5", "100.0"],
    ]


def test_the_marked_pixel_is_the_middle_of_the_largest_shape():
    mask = np.zeros((20, 40), bool)
    mask[2:5, 3:6] = True
    mask[6:17, 20:31] = True
    assert demo.inmost(mask) == (11, 25)
