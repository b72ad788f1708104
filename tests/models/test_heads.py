"""Every head alone, at tiny widths, against the reference, in padding, and over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device import ROUNDING
from heads import METHODS, golden, golden_variables, in_training, logits, padded, tiny_head

from family_cases import CASES, direction  # isort: skip  # heads has put golden/ on the path
from nonlocal_jax.checkpoints.pytorch import rules
from nonlocal_jax.config.schema import Mesh
from nonlocal_jax.runtime.sharding import make_mesh


def close(actual, expected, tolerance, what, least=0.0):
    """Within `tolerance` of the largest magnitude, which counts as `least` if it is smaller."""
    assert actual.shape == expected.shape, what
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    largest = max(np.abs(expected).max(), least)
    assert error <= ROUNDING * tolerance * largest, f"{what}: {error / largest:.1e}"


@pytest.mark.parametrize("method", METHODS)
def test_logits_in_padding_equal_the_references_of_each_image_alone(method):
    check_logits(method, tiny_head(method))


@pytest.mark.soak
@pytest.mark.devices(8)
@pytest.mark.parametrize("method", METHODS)
def test_logits_in_padding_are_the_same_on_eight_devices(method):
    with jax.set_mesh(make_mesh(Mesh(data=1, spatial=8), jax.devices()[:8])):
        check_logits(method, tiny_head(method))


@pytest.mark.soak
@pytest.mark.parametrize("method", METHODS)
def test_logits_in_bfloat16_are_near_the_references(method):
    # The whitened logits of DNL, divided by a small temperature, lose most.
    check_logits(method, tiny_head(method, "bfloat16"), 0.1 if method == "dnl" else 0.03)


def check_logits(method, head, least=1e-5):
    """Of the images of a case in one padded batch, within `least` or the reference's own error."""
    theirs, (features, valid) = golden(method), padded(method)
    together = jax.jit(lambda v, x, sizes: logits(head, v, x, sizes))(
        golden_variables(head), features, valid
    )
    assert together.dtype == jnp.float32
    for own, (height, width) in zip(together, CASES[method].sizes, strict=False):
        tolerance = max(least, 5 * theirs[f"strayed/{height}x{width}"])
        expected = theirs[f"logits/{height}x{width}"][0]
        close(own[:height, :width], expected, tolerance, (height, width))


@pytest.mark.parametrize("method", METHODS)
def test_training_equals_the_references(method):
    """Outputs, gradients of all parameters and inputs, statistics; on one device and on eight."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        head, theirs = tiny_head(method, "float64"), golden(method)
        features = tuple(jnp.asarray(x, jnp.float64) for x in CASES[method].training())
        directions = {name: direction(name) for name in CASES[method].outputs}
        variables = golden_variables(head, "float64")

        def step(variables, features):
            return in_training(head, variables, features, directions)

        check_training(head, jax.jit(step)(variables, features), theirs)
        if jax.device_count() < 8:
            return
        with jax.set_mesh(make_mesh(Mesh(data=2, spatial=4), jax.devices()[:8])):
            check_training(head, jax.jit(step)(variables, features), theirs)


def check_training(head, results, theirs):
    outputs, of_weights, of_features, after = results
    assert {f"training/{name}" for name in outputs} == {k for k in theirs if "training/" in k}
    for name, value in outputs.items():
        close(value, theirs[f"training/{name}"], 1e-6, name)
    gradients = {head.entries[k].key: to_torch(head, k, v) for k, v in of_weights.items()}
    gradients |= {f"input{i}": np.asarray(x) for i, x in enumerate(of_features)}
    statistics = {head.entries[k].key: to_torch(head, k, v) for k, v in after.items()}
    for kind, ours in (("gradient", gradients), ("after", statistics)):
        expected = {k.partition("/")[2]: v for k, v in theirs.items() if k.startswith(f"{kind}/")}
        assert set(ours) == set(expected)
        largest = max(np.abs(value).max() for value in expected.values())
        for key, value in ours.items():
            # The gradient of a bias that a softmax or a norm takes away again is rounding alone.
            close(value, expected[key], 1e-6, f"{kind} {key}", least=1e-6 * largest)


def to_torch(head, name, value):
    return rules.to_torch(np.asarray(value), head.entries[name].layout)
