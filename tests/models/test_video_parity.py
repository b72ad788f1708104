"""The published video networks at full width, against goldens of the Caffe2 original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close
from video import clip, golden, key_tables, model, theirs, variables, weights

from nonlocal_jax.checkpoints.caffe2 import rules
from nonlocal_jax.models.functional import flat_variables
from nonlocal_jax.models.video_network import build_network

pytestmark = pytest.mark.parity

C2D, AFFINE = {"kind": "c2d"}, {"norm": "affine", "group_frames": 4}
# Golden -> seed of the weights, clip, settings of the backbone, bound.
NETWORKS = {
    "c2d_baseline_8x8": (1001, (1, 8, 224, 224, 2001), {**C2D, "non_local": False}, 3e-5),
    "c2d_nonlocal_8x8": (1002, (1, 8, 224, 224, 2002), C2D, 3e-5),
    "i3d_baseline_8x8": (1003, (1, 8, 224, 224, 2003), {"non_local": False}, 3e-5),
    "i3d_nonlocal_8x8": (1004, (2, 8, 224, 224, 2004), {}, 3e-5),
    "i3d_nonlocal_8x8_fcn256": (1004, (1, 8, 256, 256, 2104), {}, 3e-5),
    "c2d_nonlocal_32x2": (1005, (1, 32, 224, 224, 2005), {**C2D, "time_stride": 2}, 3e-5),
    "i3d_nonlocal_32x2": (1006, (1, 32, 224, 224, 2006), {"time_stride": 2}, 3e-5),
    "i3d_nonlocal_affine_32x4": (1007, (1, 32, 224, 224, 2007), AFFINE, 3e-5),
    "r101_i3d_nonlocal_8x8": (1008, (1, 8, 224, 224, 2008), {"depth": 101}, 2e-4),
}


def blob_name(layer):
    """The original's name of a layer's result."""
    *parts, index = layer.split("/")
    if parts[:1] == ["non_local"]:
        return f"nonlocal_conv{parts[1].removeprefix('res')}_{index}_sum"
    return f"{parts[0]}_{index}_branch2c_bn" if parts else {"stem": "pool1"}.get(layer, layer)


@pytest.mark.parametrize("case", NETWORKS)
def test_networks(case, shared):
    """The result of every layer, the logits, and the probabilities."""
    seed, given, settings, bound = NETWORKS[case]
    table = key_tables(shared)[case.removesuffix("_fcn256")]
    network = build_network(model(**settings))
    entries = rules.entries(network.shapes, network.caffe2_keys)
    assert table == {
        entry.key: list(rules.caffe2_shape(network.shapes[name].shape, entry.layout))
        for name, entry in entries.items()
    }

    @jax.jit
    def run(values, x):
        recognizer = network.bind_for_inference(values)
        results, y = {}, x
        for name, layer in recognizer.backbone.layers():
            y = results[name] = layer(y)
        return results, recognizer(x), recognizer.fully_convolutional(x)

    values = variables(network.shapes, network.caffe2_keys, weights(table, seed))
    results, logits, probabilities = run(values, clip(*given))
    arrays = golden(shared / "video" / f"golden_{case}.npz")
    compared = 0
    for name, result in results.items():
        key = blob_name(name)
        key = f"{key}_trans_trans" if f"{key}_trans_trans" in arrays else key
        if key not in arrays:
            continue
        compared += 1
        assert tuple(arrays[f"{key}|shape"]) == theirs(result).shape
        strides = tuple(slice(None, None, int(step)) for step in arrays[f"{key}|stride"])
        error = np.abs(theirs(result)[strides] - arrays[key]).max()
        assert error <= bound * arrays[f"{key}|stats"][2], key
    assert compared == len(results) - 1  # all but the first, which only splits the batch
    if given[2] == 224:
        assert_close(np.asarray(logits), arrays["pred"][:, :, 0, 0, 0], bound)
    assert_close(np.asarray(probabilities), arrays["softmax"], bound)


def test_training_step(shared):
    """Loss and statistics tightly; gradients of this depth loosely, and their norms tightly."""
    arrays = golden(shared / "video" / "golden_train_i3d_nonlocal_t4.npz")
    network = build_network(model(dropout=0.0))
    blobs = weights(key_tables(shared)["i3d_nonlocal_8x8"], 1101)
    for key in blobs:
        if key.startswith("nonlocal") and key.endswith("_bn_s"):
            blobs[key] = blobs[key] * np.float32(0.25)
    labels = jnp.asarray(arrays["labels"])

    @jax.jit
    def run(values, x):
        trained = {name: values[name] for name in network.trainable}

        def loss(trained):
            recognizer = network.bind({**values, **trained})
            recognizer.train()
            logits = recognizer(x)
            statistics = {
                name: value
                for name, value in flat_variables(recognizer).items()
                if name not in trained
            }
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            return -jnp.mean(picked), (logits, statistics)

        return jax.value_and_grad(loss, has_aux=True)(trained)

    values = variables(network.shapes, network.caffe2_keys, blobs)
    (loss, (logits, statistics)), gradients = run(values, clip(2, 4, 224, 224, 2101))
    np.testing.assert_allclose(loss, arrays["loss"], rtol=3e-6)
    assert_close(np.asarray(logits), arrays["pred"], 2e-4)

    entries = rules.entries(network.shapes, network.caffe2_keys)
    for name, value in statistics.items():
        key = f"bn1/{entries[name].key}"
        if key in arrays:
            assert_close(np.asarray(value), arrays[key], 3e-5)
    norms = dict(zip(arrays["gradnorm_names"].tolist(), arrays["gradnorm_l2_max"], strict=True))
    largest = max(norm for norm, _ in norms.values())
    assert len(gradients) == len(norms) == 211
    for name, gradient in gradients.items():
        entry = entries[name]
        gradient = rules.to_caffe2(np.asarray(gradient), entry.layout)
        norm = norms[entry.key][0]
        # Gradients that are zero in exact arithmetic are noise.
        if norm > 1e-5 * largest:
            assert np.linalg.norm(gradient) == pytest.approx(norm, rel=5e-3), entry.key
        key = f"grad/{entry.key}"
        if key in arrays and norm > 1e-5 * largest:
            strides = tuple(slice(None, None, int(step)) for step in arrays[f"{key}|stride"])
            assert_close(gradient[strides], arrays[key], 0.1)
