"""The network against the PyTorch reference's stored outputs (golden/make_model.py)."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXACT, ROUNDING
from flax import nnx
from plain import resize_bilinear

from nonlocal_jax import cli
from nonlocal_jax.convert import rules
from nonlocal_jax.models.build import build_network, build_segmentor, flat_variables

GOLDEN = pathlib.Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

from weights import NUM_CLASSES, fingerprint, images, weights  # noqa: E402

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


def tiny_config(**overrides):
    """A row at base width 4, as golden/make_model.py builds the reference."""
    tiny = {
        **EXACT,
        "num_classes": NUM_CLASSES,
        "backbone.stem_channels": 4,
        "backbone.base_channels": 4,
        "decode_head.channels": 16,
        "decode_head.dropout": 0.0,
        "auxiliary_head.channels": 8,
        "auxiliary_head.dropout": 0.0,
    }
    values = {f"model.{key}": value for key, value in (tiny | overrides).items()}
    return cli.load_config("configs/ade20k_r50_80k.py", **values)


def golden_variables(config, network):
    """The weights of golden/weights.py under our names and in our layouts."""
    entries = rules.torch_entries(network.shapes, config.model.backbone.variant)
    shapes = {
        entry.key: rules.torch_shape(network.shapes[name].shape, entry.layout)
        for name, entry in entries.items()
    }
    values = weights(shapes)
    return {
        name: jnp.asarray(rules.to_ours(values[entry.key], entry.layout))
        for name, entry in entries.items()
    }


def assert_close(actual, expected, tolerance):
    """Within `tolerance` of the largest magnitude."""
    assert actual.shape == expected.shape
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert error <= ROUNDING * tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", OVERRIDES)
def test_every_output_equals_the_references(name):
    golden = np.load(GOLDEN / "model.npz")
    config = tiny_config(**OVERRIDES[name])
    network = build_network(config.model)
    variables = golden_variables(config, network)
    x = images(1, (2, *SIZES[name], 3))

    @jax.jit
    def forward(variables, x):
        model = network.bind(variables)
        model.eval()
        stages = model.backbone(x)
        before = model.decode_head.convs[0](stages["stage4"])
        return stages, model.decode_head.non_local(before), model(x), model.training_logits(x)

    with jax.default_matmul_precision("highest"):
        # As users compile it: at the suite's level 0 sums round more, 1.2e-5 in 101 layers.
        program = forward.lower(variables, x).compile({"xla_backend_optimization_level": 3})
        stages, non_local, decode, both = program(variables, x)
    for stage, features in stages.items():
        assert_close(fingerprint(stage, features), golden[f"{name}/{stage}"], 1e-5)
    assert_close(non_local, golden[f"{name}/non_local"], 1e-5)
    assert_close(decode, golden[f"{name}/decode"], 1e-5)
    assert_close(both.decode, golden[f"{name}/decode"], 1e-5)
    assert_close(both.auxiliary, golden[f"{name}/auxiliary"], 1e-5)
    logits = resize_bilinear(decode, SIZES[name], align_corners=config.model.align_corners)
    assert_close(logits[:1, ::3, ::3], golden[f"{name}/logits"], 1e-5)


def test_the_non_local_block_starts_as_identity():
    model = build_segmentor(tiny_config(**{"backbone.depth": 18}).model, nnx.Rngs(0))
    model.eval()
    x = images(2, (1, 6, 7, 16))
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
        model.training_logits(x)
        return flat_variables(model)

    return variables, forward(variables, images(3, (2, 33, 33, 3)))


def test_bfloat16_compute_keeps_float32_parameters_and_statistics():
    config = tiny_config(**{"dtype": "bfloat16", "backbone.depth": 18})
    network = build_network(config.model)
    assert {shape.dtype for shape in network.shapes.values()} == {jnp.dtype("float32")}
    model = network.bind(golden_variables(config, network))
    model.eval()
    x = images(4, (1, 33, 33, 3))
    logits, stages = model(x), model.backbone(x)
    assert logits.dtype == jnp.float32
    assert stages["stage4"].dtype == jnp.bfloat16
    config = tiny_config(**{"backbone.depth": 18})
    exact = build_network(config.model).bind(golden_variables(config, network))
    exact.eval()
    assert_close(logits, np.asarray(exact(x)), 0.05)
