"""Whole video networks: shapes, attention over space and time, memory, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device import ON_GPU
from networks import assert_close
from video import model

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models import network as images
from nonlocal_jax.models.backbones import resnet, video_resnet
from nonlocal_jax.models.fold import fold
from nonlocal_jax.models.heads import classification, fcn
from nonlocal_jax.models.video_network import build_network, for_platform, init_variables
from nonlocal_jax.ops.normalize import normalize_clips


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A depth of few blocks, which compiles quickly."""
    monkeypatch.setitem(video_resnet.BLOCKS_PER_STAGE, 50, (1, 2, 2, 2))
    monkeypatch.setitem(video_resnet.NON_LOCAL_AFTER, 50, {"res3": (1,), "res4": (0, 1)})


def tiny(**settings):
    return model(**{"num_classes": 5, "base_channels": 4, **settings})


def clips(n, frames, size, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((n, frames, size, size, 3)), jnp.float32)


def random_variables(config):
    """Random ones, in which no block is the identity."""
    names = build_network(config).shapes
    rng = np.random.default_rng(0)
    found = {}
    for name, leaf in sorted(names.items()):
        value = rng.standard_normal(leaf.shape)
        if name.endswith(("/scale", "/var")):
            value = np.exp(0.1 * value)
        elif name.endswith("/kernel"):
            value = value * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            value = 0.1 * value
        found[name] = jnp.asarray(value, leaf.dtype)
    found["head/classifier/kernel"] *= 1e-3  # so that no probability is near one
    return found


def test_crops_of_the_training_size_have_one_position():
    config = dataclasses.replace(tiny(), head=dataclasses.replace(tiny().head, window=2))
    network, variables = build_network(config), random_variables(config)

    @jax.jit
    def run(variables, x):
        recognizer = network.bind_for_inference(variables)
        return recognizer(x), recognizer.fully_convolutional(x), recognizer.backbone(x)

    x = clips(2, 4, 64)
    logits, probabilities, features = run(variables, x)
    assert logits.shape == (2, 5) and features.shape == (2, 2, 2, 2, 128)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=2e-5)
    # Wider frames have more positions, and probabilities are averaged, not logits.
    _, probabilities, features = run(variables, clips(1, 4, 96))
    assert features.shape[1:4] == (2, 3, 3)
    places = [features[:, :, r : r + 2, c : c + 2] for r in (0, 1) for c in (0, 1)]
    recognizer = network.bind_for_inference(variables)
    each = [jax.nn.softmax(recognizer.head(place)) for place in places]
    np.testing.assert_allclose(probabilities, np.mean(each, 0), rtol=2e-5)
    assert np.abs(probabilities - np.asarray(each[0])).max() > 1e-3


def test_attention_over_space_and_time():
    config = tiny()
    network, variables = build_network(config), random_variables(config)
    names = ("non_local/res3/1", "non_local/res4/0", "non_local/res4/1")
    assert network.attention_blocks == names
    recognizer = network.bind_for_inference(variables)
    x, relative = clips(2, 8, 64), jnp.array([[0.0, 0.3, 0.9], [0.99, 0.0, 0.5]])
    weights = recognizer.attention_map(x, relative, "non_local/res3/1")
    assert weights.shape == (2, 4, 4, 4)  # 4 frames; 64 pixels / 8, and pooled keys
    np.testing.assert_allclose(np.asarray(weights).sum((1, 2, 3)), 1, rtol=1e-5)
    block = recognizer.backbone.attention_blocks["non_local/res3/1"]
    given = recognizer.backbone.before("non_local/res3/1", x)
    direct = block.attention_map(given, (jnp.array([0, 3]), jnp.array([2, 0]), jnp.array([7, 4])))
    rounding = 1e-6 if ON_GPU else 0  # two programs
    np.testing.assert_allclose(weights, direct, rtol=rounding)
    last = recognizer.attention_map(x, relative)
    again = recognizer.attention_map(x, relative, names[-1])
    np.testing.assert_allclose(last, again, rtol=rounding)
    with pytest.raises(UserError, match="no block 'res9'; it has non_local/res3/1, "):
        recognizer.attention_map(x, relative, "res9")
    baseline = build_network(tiny(non_local=False))
    without = baseline.bind_for_inference(random_variables(tiny(non_local=False)))
    with pytest.raises(UserError, match="no non-local blocks"):
        without.attention_map(x, relative)


def test_new_networks_start_as_the_published_ones(monkeypatch):
    monkeypatch.setitem(video_resnet.BLOCKS_PER_STAGE, 50, (1, 1, 2, 1))
    monkeypatch.setitem(video_resnet.NON_LOCAL_AFTER, 50, {"res4": (1,)})
    config = tiny(base_channels=16)
    variables = init_variables(config, 0)
    std = {name: float(jnp.std(value)) for name, value in variables.items()}
    assert std["backbone/stem/conv/kernel"] == pytest.approx((2 / (16 * 5 * 49)) ** 0.5, rel=0.05)
    assert std["backbone/res3/0/conv1/conv/kernel"] == pytest.approx((2 / 96) ** 0.5, rel=0.05)
    for name in ("theta", "phi", "g", "out"):
        assert std[f"backbone/non_local/res4/1/{name}/kernel"] == pytest.approx(0.01, rel=0.05)
    zero = {n for n, v in variables.items() if n.endswith("/scale") and not v.any()}
    assert zero == {
        n for n in variables if n.endswith("/scale") and ("conv3" in n or "non_local" in n)
    }


def test_affine_layers_are_not_trained():
    network = build_network(tiny(norm="affine"))
    norms = {name for name in network.shapes if "/norm/" in name}
    assert norms and not norms & network.trainable
    assert not any(name.endswith(("/mean", "/var")) for name in norms)


def test_a_gradient_is_the_same_whatever_is_kept(monkeypatch):
    monkeypatch.setitem(video_resnet.BLOCKS_PER_STAGE, 50, (1, 1, 1, 1))
    monkeypatch.setitem(video_resnet.NON_LOCAL_AFTER, 50, {"res3": (0,)})
    variables = random_variables(tiny())

    def gradients(remat):
        config = dataclasses.replace(tiny(dropout=0.0), dtype="float64", remat=remat)
        network = build_network(config)

        @jax.jit
        @jax.grad
        def gradient(variables, x):
            recognizer = network.bind(variables)
            recognizer.train()
            return jnp.sum(jnp.sin(recognizer(x)))

        wide = {name: value.astype(jnp.float64) for name, value in variables.items()}
        return gradient(wide, clips(2, 4, 32).astype(jnp.float64))

    with jax.enable_x64(True):
        plain = gradients("none")
        largest = max(float(jnp.abs(value).max()) for value in plain.values())
        for name, value in gradients("norms").items():
            np.testing.assert_allclose(value, plain[name], atol=1e-9 * largest, err_msg=name)


def test_folded_network():
    config = tiny()
    network, variables = build_network(config), random_variables(config)
    folded, fewer = fold(network, variables)
    assert not any("norm" in name for name in fewer)
    x = clips(1, 4, 32)
    expected, same = (
        jax.jit(lambda v, x, n=n: n.bind_for_inference(v)(x))(v, x)
        for n, v in ((network, variables), (folded, fewer))
    )
    assert_close(np.asarray(same), np.asarray(expected), 1e-5)


def test_a_tpu_has_its_kernel_named():
    config = dataclasses.replace(tiny(), dtype="auto")
    assert for_platform(config, "tpu").backbone.implementation == "pallas"
    assert for_platform(config, "tpu").dtype == "bfloat16"
    assert for_platform(config, "cpu").backbone.implementation == "auto"


def test_a_backbone_of_images_is_refused():
    config = dataclasses.replace(tiny(), backbone=resnet.Options())
    with pytest.raises(UserError, match=r"backbone\.name is 'resnet', which is for segmentation"):
        build_network(config)


def test_integers_are_refused():
    network = build_network(tiny())
    recognizer = network.bind_for_inference(random_variables(tiny()))
    pixels = jnp.zeros((1, 4, 32, 32, 3), jnp.uint8)
    with pytest.raises(UserError, match="normalised clips, not uint8"):
        recognizer(pixels)
    np.testing.assert_allclose(normalize_clips(pixels + jnp.uint8(255)), 2.444444, rtol=1e-6)


def test_heads_of_another_task_are_refused():
    videos = files.load("kinetics_c2d_baseline_8x8").model
    with pytest.raises(UserError, match=r"model\.head\.name is 'fcn', which is for segmentation"):
        build_network(dataclasses.replace(videos, head=fcn.Options()))
    model = dataclasses.replace(files.load("demo").model, decode_head=classification.Options())
    with pytest.raises(UserError, match=r"'classification', which is for video"):
        images.build_network(model)
