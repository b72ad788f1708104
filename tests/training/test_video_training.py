"""A video run from its first batch to its last checkpoint: precise norms, resuming, evaluation."""

import json

import jax
import numpy as np
import pytest
from video_runs import tiny

from nonlocal_jax.checkpoints.model import load_model
from nonlocal_jax.config import files, schema
from nonlocal_jax.errors import UserError
from nonlocal_jax.runtime import sharding
from nonlocal_jax.runtime.preemption import Preemption
from nonlocal_jax.training import loop, precise_norm
from nonlocal_jax.training.compiled_step import TrainProgram
from nonlocal_jax.training.tasks import task as tasks

ONE = {"mesh.data": 1}


class ToldAt(Preemption):
    """A preemption that comes at a step, without signals."""

    exit_code = 75

    def __init__(self, step):
        self._left = step

    def begin(self):
        pass

    def told(self):
        self._left -= 1
        return self._left <= 0

    def give_up_if_told(self):
        pass


def train(config, workdir, preemption=None):
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        made = sharding.make_mesh(schema.Mesh(), devices)
        patch.setattr(sharding, "make_mesh", lambda *_: made)
        return loop.train(config, workdir, preemption or ToldAt(10**9))


def test_a_stopped_and_resumed_run_ends_as_one_that_was_not(tmp_path):
    config = tiny()
    whole = train(config, tmp_path / "whole")
    with pytest.raises(SystemExit) as left:
        train(config, tmp_path / "parts", ToldAt(3))
    assert left.value.code == 75
    resumed = train(config, tmp_path / "parts")
    assert resumed.to_dict() == whole.to_dict() and whole.videos == 200
    for step in (2, 4):
        expected, metadata = load_model(tmp_path / "whole", step)
        found, _ = load_model(tmp_path / "parts", step)
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert metadata.config == config and metadata.class_names == (
        "still",
        "rows",
        "columns",
        "diagonal",
    )
    lines = [json.loads(s) for s in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates == pytest.approx([config.optimizer.learning_rate] * 3 + [0.1 * rates[0]])
    again = files.load(tmp_path / "parts" / "config.json")
    assert again == config


def test_precise_statistics_are_means_over_batches_and_groups():
    config = tiny(**{"model.norm_group": 4, "precise_norm_batches": 3})
    mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
    task, program = tasks.of(config), TrainProgram.of(config, mesh)
    state = program.first_state(task.initial_variables())

    def batches(step):
        return task.inputs.train_batches(start_step=step)

    new = precise_norm.PreciseNorm(program, batches, 3)(7, state)
    assert new.parameters is state.parameters
    assert new.statistics.keys() == state.statistics.keys()

    kernel = state.parameters["backbone/stem/conv/kernel"]
    seen = []
    for _, batch in zip(range(3), batches(7), strict=False):
        model = program.network.bind(state.variables)
        clips = (batch["clip"].astype(np.float32) - 114.75) / 57.375
        features = np.asarray(model.backbone.stem.conv(clips), np.float64)
        seen += [features[:4], features[4:]]
    assert kernel.shape == (3, 7, 7, 3, 8)
    axes = (0, 1, 2, 3)
    mean = np.mean([part.mean(axes) for part in seen], axis=0)
    square = np.mean([(part**2).mean(axes) for part in seen], axis=0)
    np.testing.assert_allclose(new.statistics["backbone/stem/norm/mean"], mean, atol=1e-5)
    np.testing.assert_allclose(
        new.statistics["backbone/stem/norm/var"], square - mean**2, rtol=1e-4
    )


def test_no_batches_leave_the_running_averages():
    config = tiny()
    mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:1])
    program = TrainProgram.of(config, mesh)
    state = program.first_state(tasks.of(config).initial_variables())
    assert precise_norm.PreciseNorm(program, lambda _: iter(()), 0)(1, state) is state


@pytest.mark.devices(4)
def test_a_step_is_the_same_on_one_device_and_on_four():
    config = tiny(**{"model.head.dropout": 0.0})
    results = []
    for count in (1, 4):
        mesh = sharding.make_mesh(schema.Mesh(), jax.devices()[:count])
        task, program = tasks.of(config), TrainProgram.of(config, mesh)
        state = program.first_state(task.initial_variables())
        batch = sharding.put_batch(task.random_batch(np.random.default_rng(0)), mesh)
        state, metrics = program.compile()(state, batch)
        results.append((jax.device_get(state.variables), float(metrics["loss"])))
    (one, loss), (four, other) = results
    assert loss == pytest.approx(other, rel=1e-5)
    for name, array in one.items():
        np.testing.assert_allclose(four[name], array, atol=2e-5, err_msg=name)


def test_settings_that_contradict_each_other_are_told():
    for key, value, message in (
        ("data.crop_size", 64, "data.crop_size is 64"),
        ("data.short_side", (40, 32), "the smaller one comes first"),
        ("model.norm_group", 3, "norm_group is 3"),
        ("mesh.spatial", 2, "spatial must be 1"),
        ("task", "segmentation", "it must be one of video"),
    ):
        with pytest.raises(UserError, match=message):
            tiny(**{key: value})
