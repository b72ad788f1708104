"""The bases of expectation-maximization attention are state of a training run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from heads import golden_variables, tiny_head

from family_cases import CASES  # isort: skip  # heads has put golden/ on the path
from nonlocal_jax.checkpoints import run
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.training.step import initial_state, make_train_step

BASES = "attention/bases"
MOMENTUM = 0.1


def objective(head, batch, rngs):
    """The mean square of the logits."""
    outputs = head.training_logits((batch["features"],), rngs=rngs)
    return {"loss": jnp.mean(jnp.square(outputs[""].logits))}


def bases_of_images(variables, x):
    """In float64, one image after another."""
    start = np.asarray(variables[BASES], np.float64)
    found = []
    for image in np.asarray(x, np.float64).reshape(len(x), -1, x.shape[-1]):
        bases = start
        for _ in range(3):
            z = np.exp(image @ bases)
            z /= z.sum(1, keepdims=True)
            bases = image.T @ (z / z.sum(0))
            bases /= np.linalg.norm(bases, axis=0)
        found.append(bases)
    return np.stack(found)


def test_a_step_moves_the_bases_and_a_checkpoint_keeps_them(tmp_path):
    head, optimizer = tiny_head("ema"), optax.sgd(0.1)
    variables = golden_variables(head)
    assert head.trainable.isdisjoint({BASES, "linear/kernel", "linear/bias"})
    state = initial_state(head, variables, optimizer)
    step = jax.jit(make_train_step(head, optimizer, objective))
    (x,) = CASES["ema"].training()

    def inputs(variables, x):  # of the attention, in training
        model = head.bind(variables)
        model.train()
        return model.linear(model.before(x))

    images = bases_of_images(variables, jax.jit(inputs)(variables, x))
    after, metrics = step(state, {"features": x})
    assert metrics["finite"]
    mean = images.mean(0)
    mean /= np.linalg.norm(mean, axis=0)
    expected = (1 - MOMENTUM) * np.asarray(variables[BASES]) + MOMENTUM * mean
    np.testing.assert_allclose(after.statistics[BASES], expected, atol=1e-6)

    for name in ("linear/kernel", "linear/bias"):
        np.testing.assert_array_equal(after.statistics[name], variables[name])
    unchanged, metrics = step(after, {"features": np.full_like(x, np.nan)})
    assert not metrics["finite"]
    np.testing.assert_array_equal(unchanged.statistics[BASES], after.statistics[BASES])

    with run.RunCheckpoints(tmp_path, keep=1) as saved:
        saved.save(1, after.variables, after.optimizer, Metadata(kind="segmentor"))
    with run.RunCheckpoints(tmp_path, keep=1) as saved:
        restored, _ = saved.restore(1, after.variables, after.optimizer)
    np.testing.assert_array_equal(restored[BASES], after.statistics[BASES])
