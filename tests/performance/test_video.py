"""What `benchmark` and `plan` say of video configs."""

import jax
import pytest
from video_runs import tiny

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.performance import measure, meshes, steps
from nonlocal_jax.runtime import sharding


@pytest.fixture
def one_device(monkeypatch):
    """Measurements as on a machine with one device."""
    made = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda mesh, _=None: made(mesh, jax.devices()[:1]))


def test_inference_training_input_and_evaluation_are_measured(one_device):
    config = tiny()
    inference = measure.inference("tiny", config, 2, 1)
    assert (inference.images, inference.size) == (2, (32, 32)) and inference.milliseconds > 0
    training = measure.training("tiny", config, 1)
    assert (training.images, training.size) == (8, (32, 32))
    assert training.tflop > inference.tflop > 0
    assert "| tiny | training | 8 | 32x32 |" in measure.table([inference, training], {})
    assert "clips/s" in measure.input_rates("tiny", config, 2).text()
    assert "3 videos at" in measure.evaluation_report("tiny", config, 3)
    with pytest.raises(UserError, match=r"set --config\.eval\.crop_size for videos"):
        measure.inference("tiny", config, 2, 1, (64, 64))


def test_a_batch_is_split_over_a_slice_by_clips_alone():
    config = files.load("kinetics_i3d_nonlocal_8x8")
    assert meshes.choose(config, 8).sizes == {"data": 8, "fsdp": 1, "spatial": 1}
    with pytest.raises(UserError, match="a multiple, or a smaller slice"):
        meshes.choose(config, 256)


def test_the_steps_of_a_plan_are_traced(one_device):
    config, mesh = tiny(), sharding.make_mesh(tiny().mesh)
    for step in (steps.train, steps.evaluation):
        assert step(config, mesh).jaxpr.eqns
    held = steps.state_bytes(config, mesh)
    assert held["parameters"] > held["optimizer"] > 0
