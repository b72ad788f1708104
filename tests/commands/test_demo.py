"""The demonstration, shrunk to three steps, and the pieces that it prints and draws."""

import numpy as np
from PIL import Image

from nonlocal_jax import demo
from nonlocal_jax.checkpoints import locate, model
from nonlocal_jax.config import files
from nonlocal_jax.config.tables import HEADS
from nonlocal_jax.evaluation.metrics.scores import Scores
from nonlocal_jax.inputs.datasets import scenes
from nonlocal_jax.models.network import build_network
from nonlocal_jax.reporting import pictures
from nonlocal_jax.training import demonstration
from nonlocal_jax.training.demonstration import Result


def test_it_trains_twice_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(scenes.COUNTS, "val", 8)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # keep no programs
    widths = ["backbone.stem_channels=4", "backbone.base_channels=4", "decode_head.channels=8"]
    words = [f"--config.model.{width}" for width in widths]
    words += ["--config.total_steps=3", f"--workdir={tmp_path}"]
    assert demo.run(words) == 0

    told = capsys.readouterr().out
    assert (
        "FCN, no block" in told
        and "attend to the lamp with" in told
        and "All of it took 0:0" in told
    )
    for head in ("fcn", "nonlocal"):
        variables, _ = model.load_model(locate.find(tmp_path / head).folder)
        has_block = any(name.startswith("decode_head/non_local/") for name in variables)
        assert has_block == (head == "nonlocal")
    for index in range(demonstration.PICTURES):
        picture = np.asarray(Image.open(tmp_path / f"scene_{index}.png"))
        scene, _ = scenes.make_scene("val", index)
        np.testing.assert_array_equal(picture[16:80, :512], scene)


def test_the_table_has_a_row_for_each_network():
    results = {
        "fcn": Result(Scores(np.array([[3, 1], [0, 0]]), ("a", "b")), 1234, 5.67),
        "nonlocal": Result(Scores(np.array([[4, 0], [0, 4]]), ("a", "b")), 2345, 6.78),
    }
    assert [line.split() for line in demonstration.compare(results).splitlines()] == [
        ["IoU", "on", "unseen", "scenes", "a", "b", "mIoU", "parameters", "ms", "a", "scene"],
        ["FCN,", "no", "block", "75.0", "0.0", "37.5", "1,234", "5.7"],
        ["NonLocalNet", "100.0", "100.0", "100.0", "2,345", "6.8"],
    ]


def test_every_head_is_in_it():
    named = (module.rpartition(".")[2].removesuffix("_head") for module in HEADS.values())
    assert set(demonstration.HEADS) == set(named) - {"classification"}
    for head in demonstration.HEADS:
        narrow = demonstration.with_head(files.load("demo"), head)
        assert build_network(narrow.model).shapes


def test_a_head_that_is_not_there_is_one_message(tmp_path, capsys):
    assert demo.run(["--heads=fcn,hat", f"--workdir={tmp_path}"]) == 2
    assert "--heads names 'hat'; it must be one of fcn, nonlocal" in capsys.readouterr().err


def test_the_marked_pixel_is_the_middle_of_the_largest_shape():
    mask = np.zeros((20, 40), bool)
    mask[2:5, 3:6] = True
    mask[6:17, 20:31] = True
    assert pictures.inmost(mask) == (11, 25)
