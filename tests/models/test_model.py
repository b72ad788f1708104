"""The network against the PyTorch reference's stored outputs (golden/make_model.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import GOLDEN, assert_close, fingerprint, golden_variables, images, tiny_config
from plain import resize_bilinear

from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.resnet import average_pool
from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.models.network import build_network, build_segmentor

OVERRIDES = {
    "r50_d8": {},
    "r50_d8_odd": {},
    "r50_d8_aligned": {"align_corners": True},
    "r101_d8": {"backbone.depth": 101},
    "r152_d16_v1d": {
        "backbone.depth": 152,
        "backbone.variant": "v1d",
        "backbone.output_stride": 16,
    },
    "r18_d8": {"backbone.depth": 18},
    "r34_d32_v1d": {"backbone.depth": 34, "backbone.variant": "v1d", "backbone.output_stride": 32},
    "r50_d8_not_contracted": {"backbone.contract_dilation": False},
}
SIZES = {
    "r50_d8": (64, 64),
    "r50_d8_odd": (57, 71),
    "r50_d8_aligned": (65, 49),
    "r101_d8": (33, 41),
    "r152_d16_v1d": (45, 51),
    "r18_d8": (47, 52),
    "r34_d32_v1d": (75, 93),
    "r50_d8_not_contracted": (41, 41),
}


LONG = ("r101_d8", "r152_d16_v1d", "r50_d8_odd")  # other tests have their parts


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] * (name in LONG)) for name in OVERRIDES]
)
def test_every_output_equals_the_references(name):
    """In float32; R-101 in float64, as its 101 layers round by 0.6e-5 to 1.2e-5, by the CPU."""
    dtype = "float64" if name == "r101_d8" else "float32"
    with jax.enable_x64(dtype == "float64"):
        check_every_output(name, dtype)


def check_every_output(name, dtype):
    golden = np.load(GOLDEN / "model.npz")
    config = tiny_config(dtype=dtype, **OVERRIDES[name])
    network = build_network(config.model)
    variables = golden_variables(config, network)
    variables = {name: value.astype(dtype) for name, value in variables.items()}
    x = jnp.asarray(images(1, (2, *SIZES[name], 3)), dtype)

    @jax.jit
    def forward(variables, x):
        model = network.bind(variables)
        model.eval()
        stages = model.backbone(x)
        before = model.decode_head.convs[0](stages["stage4"])
        return stages, model.decode_head.non_local(before), model(x), model.training_outputs(x)

    with jax.default_matmul_precision("highest"):
        stages, non_local, decode, both = forward(variables, x)
    for stage, features in stages.items():
        assert_close(fingerprint(stage, features), golden[f"{name}/{stage}"], 1e-5)
    assert_close(non_local, golden[f"{name}/non_local"], 1e-5)
    assert_close(decode, golden[f"{name}/decode"], 1e-5)
    assert_close(both["decode"].logits, golden[f"{name}/decode"], 1e-5)
    assert_close(both["auxiliary"].logits, golden[f"{name}/auxiliary"], 1e-5)
    logits = resize_bilinear(decode, SIZES[name], align_corners=config.model.align_corners)
    assert_close(logits[:1, ::3, ::3], golden[f"{name}/logits"], 1e-5)


def test_the_non_local_block_starts_as_identity():
    model = build_segmentor(tiny_config(**{"backbone.depth": 18}).model, nnx.Rngs(0))
    model.eval()
    x = jnp.asarray(images(2, (1, 6, 7, 16)))
    np.testing.assert_array_equal(model.decode_head.non_local(x), x)


def test_fcn_decode_head_is_the_same_head_without_the_block():
    with_block = build_network(tiny_config().model)
    without = build_network(tiny_config(**{"decode_head.name": "fcn"}).model)
    gone = set(with_block.shapes) - set(without.shapes)
    assert gone and all(name.startswith("decode_head/non_local/") for name in gone)
    assert set(without.shapes) < set(with_block.shapes)


def test_frozen_stages_are_not_trainable_and_keep_their_statistics():
    config = tiny_config(**{"backbone.frozen_stages": 2})
    network = build_network(config.model)
    frozen = ("backbone/stem/", "backbone/stage1/", "backbone/stage2/")
    assert not any(name.startswith(frozen) for name in network.trainable)
    assert any(name.startswith("backbone/stage3/") for name in network.trainable)
    before, after = _statistics_around_a_training_pass(config, network)
    for name in before:
        if name.rpartition("/")[2] in ("mean", "var"):
            same = np.array_equal(before[name], after[name])
            assert same == name.startswith(frozen), name


def test_norm_eval_keeps_the_backbones_statistics_but_trains_its_parameters():
    config = tiny_config(**{"backbone.norm_eval": True})
    network = build_network(config.model)
    assert network.trainable == build_network(tiny_config().model).trainable
    before, after = _statistics_around_a_training_pass(config, network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed and not any(name.startswith("backbone/") for name in changed)


def _statistics_around_a_training_pass(config, network):
    variables = golden_variables(config, network)

    @jax.jit
    def forward(variables, x):
        model = network.bind(variables)
        model.train()
        model.training_outputs(x)
        return flat_variables(model)

    return variables, forward(variables, images(3, (2, 33, 33, 3)))


def test_bfloat16_compute_keeps_float32_parameters_and_statistics():
    config = tiny_config(**{"dtype": "bfloat16", "backbone.depth": 18})
    network = build_network(config.model)
    assert {shape.dtype for shape in network.shapes.values()} == {jnp.dtype("float32")}
    model = network.bind(golden_variables(config, network))
    model.eval()
    x = jnp.asarray(images(4, (1, 33, 33, 3)))
    logits, stages = model(x), model.backbone(x)
    assert logits.dtype == jnp.float32
    assert stages["stage4"].dtype == jnp.bfloat16
    config = tiny_config(**{"backbone.depth": 18})
    exact = build_network(config.model).bind(golden_variables(config, network))
    exact.eval()
    assert_close(logits, np.asarray(exact(x)), 0.05)


def test_images_that_are_not_normalised_are_refused():
    network = build_network(tiny_config(**{"backbone.depth": 18}).model)
    images = jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.uint8)
    with pytest.raises((UserError, TypeError)):  # a TypeError where annotations are checked
        jax.eval_shape(lambda v, x: network.bind_for_inference(v)(x), network.shapes, images)


def test_average_pooling_has_the_gradient_of_a_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 3)), jnp.float32)
    weights = jnp.arange(2 * 3 * 3 * 3, dtype=jnp.float32).reshape(2, 3, 3, 3)
    found = jax.jit(jax.grad(lambda x: jnp.sum(weights * average_pool(x, None))))(x)
    counts = np.full((3, 1, 1), 4.0)
    counts[2] = 2.0  # of the last row, windows hold one row only
    expected = np.repeat(np.repeat(np.asarray(weights) / counts, 2, axis=1)[:, :5], 2, axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
