"""The video networks against goldens of the Caffe2 original."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from video import (
    VIDEO,
    Mini,
    golden,
    load,
    ours,
    theirs,
)

from nonlocal_jax.checkpoints.caffe2 import rules
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones.video_resnet import CAFFE2_KEYS, Bottleneck3d
from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.video_non_local import VideoNonLocal

UNITS = {
    "block_s2_t3": {"frames": 3, "stride": 2},
    "block_s1_t1": {"frames": 1, "stride": 1},
    "block_s2_t3_affine": {"frames": 3, "stride": 2, "norm": "affine"},
    "nl_softmax_bn": {},
    "nl_softmax_noscale": {"use_scale": False},
    "nl_nopool": {"sub_sample": False},
    "nl_dotproduct": {"mode": "dot_product"},
    "nl_nobn": {"norm": False},
    "nl_group4_nobn": {"norm": False, "group_frames": 4},
}


class Unit(nnx.Module):
    """One block, under the names that it has in a network."""

    def __init__(self, case, settings):
        numerics = Numerics(rngs=nnx.Rngs(0))
        if case.startswith("block"):
            settings = {"norm": "batch", **settings}
            self.res9 = nnx.List([Bottleneck3d(8, 4, numerics=numerics, **settings)])
        else:
            block = VideoNonLocal(16, numerics=numerics, **settings)
            self.non_local = nnx.Dict({"res9": nnx.Dict({"1": block})})

    def __call__(self, x):
        return self.res9[0](x) if hasattr(self, "res9") else self.non_local["res9"]["1"](x)


@functools.cache
def unit(case):
    """The unit with the golden's weights, its input and its output."""
    prefix = f"{case}/"
    arrays = {
        k.removeprefix(prefix): v
        for k, v in golden(VIDEO / "units.npz").items()
        if k.startswith(prefix)
    }
    module = Unit(case, UNITS[case])
    blobs = {k.removeprefix("w/"): v for k, v in arrays.items() if k.startswith("w/")}
    entries = rules.entries(flat_variables(module), CAFFE2_KEYS)
    assert {entry.key for entry in entries.values()} == set(blobs)
    load(module, CAFFE2_KEYS, blobs)
    module.eval()
    return module, arrays["in"], arrays["out"]


@pytest.mark.parametrize("case", UNITS)
def test_units(case):
    module, x, y = unit(case)
    np.testing.assert_allclose(theirs(nnx.jit(module)(ours(x))), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["block_s2_t3", "block_s2_t3_affine", "nl_softmax_bn"])
def test_folded_units(case):
    """A norm that is folded into its layer changes nothing but rounding."""
    module, x, y = unit(case)
    folded = nnx.clone(module)
    for _, part in list(nnx.iter_modules(folded)):
        if hasattr(part, "fold_norm"):
            part.fold_norm()
    assert not any("norm" in name for name in flat_variables(folded))
    np.testing.assert_allclose(theirs(nnx.jit(folded)(ours(x))), y, rtol=0, atol=1e-5)


def test_attention_map_of_a_group():
    module, x, _ = unit("nl_group4_nobn")
    block, clips = module.non_local["res9"]["1"], ours(x)
    position = (jnp.array([5, 2]), jnp.array([1, 3]), jnp.array([2, 0]))
    weights_ = np.asarray(block.attention_map(clips, position))
    assert weights_.shape == (2, 8, 3, 3)
    np.testing.assert_allclose(weights_.sum((1, 2, 3)), 1, atol=1e-6)
    assert not weights_[0, :4].any() and not weights_[1, 4:].any()
    # The weights are those by which the block sums g over its own group of frames.
    keys = jnp.max(clips.reshape(2, 8, 3, 2, 3, 2, 16), (3, 5))
    y = np.einsum("nthw,nthwc->nc", weights_, np.asarray(block.g(keys)))
    at = (jnp.arange(2), *position)
    expected = block(clips)[at] - clips[at]
    np.testing.assert_allclose(block.out(jnp.asarray(y)), expected, atol=1e-5)


def test_group_that_does_not_divide_is_refused():
    module, x, _ = unit("nl_group4_nobn")
    with pytest.raises(UserError, match=r"groups 4 frames is given 6: choose config\.data\.frames"):
        module(ours(x[:, :, :6]))


def test_gradients_and_statistics_of_a_training_step():
    arrays = golden(VIDEO / "minitrain.npz")
    network = Mini()
    blobs = {k.removeprefix("init/"): v for k, v in arrays.items() if k.startswith("init/")}
    load(network, Mini.caffe2_keys, blobs)
    network.train()
    labels = jnp.asarray(arrays["labels"])

    @nnx.jit
    @functools.partial(nnx.value_and_grad, has_aux=False)
    def loss_and_gradients(network, clips):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(network(clips)), labels[:, None], 1)
        return -jnp.mean(chosen)

    loss, gradients = loss_and_gradients(network, ours(arrays["data"]))
    np.testing.assert_allclose(loss, arrays["loss"], rtol=2e-6)
    gradients = flat_variables_of(gradients)
    entries = rules.entries(flat_variables(network), Mini.caffe2_keys)
    assert {entries[name].key for name in gradients} == {
        k.removeprefix("grad/") for k in arrays if k.startswith("grad/")
    }
    for name, gradient in gradients.items():
        entry = entries[name]
        expected = rules.to_ours(arrays[f"grad/{entry.key}"], entry.layout)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5, err_msg=entry.key)
    statistics = [n for n in entries if n.endswith(("/mean", "/var"))]
    after = flat_variables(network)
    assert len(statistics) == 16
    for name in statistics:
        expected = arrays[f"after1/{entries[name].key}"]
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-5, err_msg=name)


def flat_variables_of(state):
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
