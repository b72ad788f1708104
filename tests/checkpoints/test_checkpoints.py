"""Checkpoints: whole or absent, found again, and never silently wrong."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from nonlocal_jax.checkpoints import training
from nonlocal_jax.errors import UserError

VARIABLES = {
    "backbone/stem/0/conv/kernel": np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2),
    "decode_head/classifier/bias": np.array([0.5, -1.0], np.float32),
}


def arrays(offset=0.0):
    return {name: jnp.asarray(value + np.float32(offset)) for name, value in VARIABLES.items()}


def opened(directory, keep=2):
    training.prepare(directory / "checkpoints")
    return training.TrainingCheckpoints(directory / "checkpoints", keep=keep)


def train(directory, steps, keep=2, mious=None):
    with opened(directory, keep) as saved:
        for step in steps:
            miou = (mious or {}).get(step)
            saved.save(step, arrays(step), {"m": arrays(-step)}, {"kind": "training"}, miou=miou)


def names(directory):
    return sorted(int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit())


def flip_a_byte(step):
    file = max(
        (p for p in (step / "model").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_model_comes_back_as_it_was(tmp_path):
    training.save_model(tmp_path / "model", VARIABLES, {"kind": "segmentor", "classes": ["a"]})
    loaded, metadata = training.load_model(tmp_path / "model")
    assert metadata["kind"] == "segmentor" and metadata["classes"] == ["a"]
    assert loaded.keys() == VARIABLES.keys()
    for name, value in VARIABLES.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype


def test_nothing_is_overwritten_and_nothing_partial_is_left(tmp_path):
    training.save_model(tmp_path / "model", VARIABLES, {"kind": "segmentor"})
    with pytest.raises(UserError, match="exists already"):
        training.save_model(tmp_path / "model", VARIABLES, {"kind": "segmentor"})
    with pytest.raises(TypeError):  # JSON can't hold it
        training.save_model(tmp_path / "other", VARIABLES, {"kind": {1, 2}})
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_the_latest_and_the_best_are_kept(tmp_path):
    train(tmp_path, range(1, 7), keep=2, mious={2: 0.9, 4: 0.3, 6: 0.4})
    assert names(tmp_path) == [2, 5, 6]


def test_a_score_that_comes_later_counts(tmp_path):
    train(tmp_path, range(1, 4), keep=3, mious={1: 0.5})
    folder = tmp_path / "checkpoints"
    with opened(tmp_path, keep=1) as saved:
        assert not training.is_scored(folder / "2")
        saved.score(2, 0.7)
        assert training.is_scored(folder / "2")
    assert names(tmp_path) == [2, 3]
    assert training.prepare(folder) == 3
    assert training.load_model(folder / "2")


def test_training_goes_on_from_the_newest(tmp_path):
    train(tmp_path, [3, 8])
    assert training.prepare(tmp_path / "checkpoints") == 8
    with opened(tmp_path) as saved:
        variables, optimizer = saved.restore(8, arrays(), {"m": arrays()})
    for name, value in arrays(8).items():
        np.testing.assert_array_equal(variables[name], value)
        np.testing.assert_array_equal(optimizer["m"][name], arrays(-8)[name])


def test_a_flipped_byte_falls_back_to_the_step_before(tmp_path):
    train(tmp_path, [3, 8])
    flip_a_byte(tmp_path / "checkpoints" / "8")
    assert training.find(tmp_path).name == "3"
    with pytest.raises(UserError, match=r"damaged.*has changed"):
        training.load_model(tmp_path / "checkpoints" / "8")
    assert training.prepare(tmp_path / "checkpoints") == 3
    assert names(tmp_path) == [3]
    assert (tmp_path / "checkpoints" / "8.damaged").is_dir()


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/8"])
def test_a_network_is_loaded_from_a_workdir_and_from_its_parts(tmp_path, place):
    train(tmp_path, [3, 8])
    loaded, metadata = training.load_model(tmp_path / place)
    assert metadata["kind"] == "training"
    np.testing.assert_array_equal(
        loaded["decode_head/classifier/bias"], VARIABLES["decode_head/classifier/bias"] + 8
    )


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint"):
        training.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        training.load_model(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    training.save_model(tmp_path / "model", VARIABLES, {"kind": "segmentor"})
    file = tmp_path / "model" / "metadata" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(UserError, match=r"format 99.*update"):
        training.load_model(tmp_path / "model")
