"""A step that is saved and restored goes on to the same bits, with every optimiser and schedule.

The network is a layer with a batch norm. tests/training/test_interruptions.py kills whole runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.model import load_model
from nonlocal_jax.checkpoints.run import RunCheckpoints
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.functional import Functional, flat_variables
from nonlocal_jax.training.optimizers.optimizer import make_optimizer
from nonlocal_jax.training.step import initial_state, make_train_step

STEPS, DECAY = 6, 0.75
RUNS = {
    "nesterov_polynomial": {"nesterov": True, "decay_norms": False, "warmup_steps": 4},
    "adamw_cosine": {"name": "adamw", "schedule.name": "cosine", "warmup_steps": 2},
    "adamw_constant": {
        "name": "adamw",
        "schedule.name": "constant",
        "clip_norm": 0.1,
        "backbone_factor": 0.1,
        "decay_biases": False,
    },
    "sgd_steps": {"schedule.name": "steps", "schedule.steps": (2, 4), "head_factor": 10.0},
}
SOAK = ("adamw_constant", "sgd_steps")


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.backbone = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.backbone(x))


def objective(model, batch, rngs):
    loss = jnp.mean((model(batch["x"]) - batch["y"]) ** 2)
    return {"loss": loss, "accuracy": loss}


def setup(settings, ema_decay=DECAY):
    """The jitted step and the state at step 0."""
    given = {f"optimizer.{key}": value for key, value in settings.items()}
    config = files.load("demo", **given)
    rule = make_optimizer(config.optimizer, total_steps=STEPS, batch_size=8).transformation
    model = Layer(nnx.Rngs(0))
    network = Functional(*nnx.split(nnx.eval_shape(lambda: Layer(nnx.Rngs(0)))))
    step = make_train_step(network, rule, objective, ema_decay=ema_decay)
    state = initial_state(network, flat_variables(model), rule, averages=ema_decay > 0)
    return jax.jit(step), state


def batch(step):
    rng = np.random.default_rng(step)
    return {
        name: jnp.asarray(rng.standard_normal((8, width)), jnp.float32)
        for name, width in (("x", 3), ("y", 4))
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=[pytest.mark.soak] if name in SOAK else [])
        for name, settings in RUNS.items()
    ],
)
def test_restored_it_goes_on_to_the_same_bits(settings, tmp_path):
    step, first = setup(settings)
    state, held = first, None
    for number in range(STEPS):
        if number == 3:
            held = state
            with RunCheckpoints(tmp_path, keep=1) as saved:
                parts = state.variables, state.optimizer, Metadata(kind="training")
                saved.save(number, *parts, state.average)
        state, _ = step(state, batch(number))
    with RunCheckpoints(tmp_path, keep=1) as saved:
        variables, optimizer = saved.restore(3, first.variables, first.optimizer)
        average = saved.restore_average(3, first.average)
    resumed = first._replace(
        step=jnp.int32(3),
        parameters={name: variables[name] for name in first.parameters},
        statistics={name: variables[name] for name in first.statistics},
        optimizer=optimizer,
        average=average,
    )
    assert_same(resumed, held)
    for number in range(3, STEPS):
        resumed, _ = step(resumed, batch(number))
    assert_same(resumed, state)
    # What is read of the checkpoint is what was evaluated, unless told otherwise.
    assert_same(load_model(tmp_path / "3")[0], held.evaluated)
    assert_same(load_model(tmp_path / "3", averaged=False)[0], held.variables)


def test_the_average_is_that_of_the_weights_and_statistics():
    step, state = setup(RUNS["adamw_cosine"])
    expected = {name: np.asarray(value, np.float64) for name, value in state.variables.items()}
    for number in range(STEPS):
        state, _ = step(state, batch(number))
        decay = min(DECAY, (1 + number) / (10 + number))
        for name, value in state.variables.items():
            expected[name] = decay * expected[name] + (1 - decay) * np.asarray(value)
    assert state.average.keys() == state.variables.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(state.average[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
        np.testing.assert_array_equal(state.evaluated[name], state.average[name])
    kernel = "backbone/kernel"
    assert not np.array_equal(state.average[kernel], state.variables[kernel])


def test_a_step_that_is_not_finite_leaves_the_average_as_it_is():
    step, state = setup(RUNS["adamw_cosine"])
    state, _ = step(state, batch(0))
    bad = {name: value * jnp.nan for name, value in batch(1).items()}
    after, metrics = step(state, bad)
    assert not metrics["finite"]
    assert_same(after.average, state.average)


def test_without_an_average_nothing_is_kept(tmp_path):
    step, state = setup(RUNS["sgd_steps"], ema_decay=0.0)
    state, _ = step(state, batch(0))
    assert state.average == {} and state.evaluated == state.variables
    with RunCheckpoints(tmp_path, keep=1) as saved:
        metadata = Metadata(kind="training")
        saved.save(1, state.variables, state.optimizer, metadata, state.average)
    assert not (tmp_path / "1" / "average").exists()
    assert_same(load_model(tmp_path / "1")[0], jax.tree.map(np.asarray, state.variables))


def test_an_average_and_precise_norms_exclude_each_other():
    with pytest.raises(UserError, match=r"config\.ema_decay and config\.precise_norm_batches"):
        files.load("demo", ema_decay=0.9, precise_norm_batches=3)
