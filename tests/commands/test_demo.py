"""The demonstration, shrunk to three steps, and the pieces that it prints and draws."""

import numpy as np
from PIL import Image

from nonlocal_jax import demo
from nonlocal_jax.checkpoints import locate, model
from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.inputs.datasets import scenes
from nonlocal_jax.training import demonstration


def test_it_trains_twice_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(scenes.COUNTS, "val", 8)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # keep no programs
    widths = ["backbone.stem_channels=4", "backbone.base_channels=4", "decode_head.channels=8"]
    words = [f"--config.model.{width}" for width in widths]
    words += ["--config.total_steps=3", f"--workdir={tmp_path}"]
    assert demo.run(words) == 0

    told = capsys.readouterr().out
    assert "without the block" in told and "All of it took 0:0" in told
    for head in demonstration.HEADS:
        variables, _ = model.load_model(locate.find(tmp_path / head).folder)
        has_block = any(name.startswith("decode_head/non_local/") for name in variables)
        assert has_block == (head == "nonlocal")
    for index in range(demonstration.PICTURES):
        picture = np.asarray(Image.open(tmp_path / f"scene_{index}.png"))
        scene, _ = scenes.make_scene("val", index)
        np.testing.assert_array_equal(picture[16:80, :512], scene)


def test_the_table_has_both_networks_side_by_side():
    scores = {
        "fcn": Scores(np.array([[3, 1], [0, 0]]), ("a", "b")),
        "nonlocal": Scores(np.array([[4, 0], [0, 4]]), ("a", "b")),
    }
    assert [line.split() for line in demonstration.compare(scores).splitlines()[1:]] == [
        ["a", "75.0", "100.0"],
        ["b", "0.0", "100.0"],
        ["mIoU", "37.5", "100.0"],
    ]


def test_the_marked_pixel_is_the_middle_of_the_largest_shape():
    mask = np.zeros((20, 40), bool)
    mask[2:5, 3:6] = True
    mask[6:17, 20:31] = True
    assert demonstration.inmost(mask) == (11, 25)
