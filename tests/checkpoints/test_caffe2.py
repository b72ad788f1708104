"""Caffe2 checkpoints: read without running anything, imported strictly, exported byte for byte."""

import codecs
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_close
from video import clip, golden, model, theirs, variables, weights

from nonlocal_jax.checkpoints.caffe2 import blob_file, exporter, importer, rules
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.video_network import build_network

CLASSES, WIDTH = 25, 4


@pytest.fixture(scope="module")
def network():
    return build_network(model(num_classes=CLASSES, base_channels=WIDTH))


@pytest.fixture(scope="module")
def blobs(network):
    """What a file of `network` holds: weights, momenta and the two numbers."""
    entries = rules.entries(network.shapes, network.caffe2_keys)
    table = {
        entry.key: rules.caffe2_shape(network.shapes[name].shape, entry.layout)
        for name, entry in entries.items()
    }
    momenta = {
        f"{entries[name].key}_momentum": table[entries[name].key] for name in network.trainable
    }
    numbers = {"lr": np.array([0.001], np.float32), "model_iter": 2}
    return {**weights(table, 0), **weights(momenta, 1), **numbers}


def same(actual, expected):
    assert set(actual) == set(expected)
    for key, value in expected.items():
        other = np.asarray(actual[key])
        assert other.dtype == np.asarray(value).dtype and other.shape == np.shape(value), key
        assert other.tobytes() == np.asarray(value).tobytes(), key


def refused(path, because):
    with pytest.raises(UserError, match=because) as caught:
        blob_file.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message


# --- The file ------------------------------------------------------------------------------------


def protocol_0(blobs):
    """A pickle as Python 2 writes it; Python 3 has no byte strings in protocol 0."""
    parts = [b"(d"]
    for key, item in blobs.items():
        parts.append(b"S" + repr(key).encode() + b"\n")
        if isinstance(item, np.ndarray):
            shape = b"(" + b"".join(b"I%d\n" % n for n in item.shape) + b"t"
            data = repr(item.tobytes())[1:].encode()
            parts += [
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR",
                b"(I1\n" + shape + b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR",
                b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS" + data + b"\ntb",
            ]
        else:
            parts.append(b"I%d\n" % item)
        parts.append(b"s")
    return b"".join([*parts, b"."])


SMALL = {
    "conv1_w": np.arange(256, dtype=np.uint8).view(np.float32).reshape(4, 16),
    "pred_b": np.array([0.5, -np.inf], np.float32),
    "conv1_w_momentum": np.zeros((0, 3), np.float32),
    "lr": np.array(0.25, np.float32),
    "model_iter": 70000,
}


@pytest.mark.parametrize("protocol", [0, 2])
def test_reads_both_protocols(tmp_path, protocol):
    path = tmp_path / "x.pkl"
    if protocol == 0:
        path.write_bytes(protocol_0(SMALL))
    else:
        blob_file.write(path, SMALL)
    data = path.read_bytes()
    expected = pickle.loads(data, encoding="latin1")
    same(expected.get("blobs", expected), SMALL)  # that is what Python makes of it
    same(blob_file.read(path), SMALL)
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        refused(path, "cut off|empty|damaged|no checkpoint")


def test_names_have_the_types_of_the_original(tmp_path):
    blob_file.write(tmp_path / "x.pkl", SMALL)
    read = pickle.loads((tmp_path / "x.pkl").read_bytes(), encoding="bytes")[b"blobs"]
    assert set(read) == {b"conv1_w", b"pred_b", "conv1_w_momentum", "lr", "model_iter"}


def test_write_refuses_other_types(tmp_path):
    with pytest.raises(UserError, match="conv1_w is of float64"):
        blob_file.write(tmp_path / "x.pkl", {"conv1_w": np.zeros(3)})


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_pickle_cannot_run_anything(tmp_path, protocol):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    events = []
    watched = ("import", "compile", "exec", "os.system", "subprocess.Popen", "pickle.find_class")
    active = [False]
    sys.addaudithook(
        lambda event, _: events.append(event) if active[0] and event in watched else None
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": Attack()}}, protocol))
    codecs.lookup("raw-unicode-escape")  # Python imports it when it is first needed
    active[0] = True
    try:
        refused(path, "names posix.system|instruction")
    finally:
        active[0] = False
    assert not (tmp_path / "ran").exists() and events == []


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (b"cos\nsystem\n.", "names os.system, which"),
        (b"(S'touch x'\nios\nsystem\n.", "instruction INST"),
        (b"(cos\nsystem\no.", "names os.system"),
        (b"S'os'\nS'system'\n\x93.", "names os.system"),
        (b"cnumpy\nload\n.", "names numpy.load"),
        (b"Pos.system\n.", "instruction PERSID"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "names __builtin__.eval"),
        (b"(dS'a'\n(dS'b'\nI1\nss.", "blob a is neither"),
        (b"(dS'a'\nI01\ns.", "blob a is neither"),
        (b"(dS'a'\nNs.", "blob a is neither"),
        (b"(dI1\nI1\ns.", "name 1 of a blob"),
        (b"(dp0\nS'a'\ng0\ns.", "blob a is neither"),
        (b"(l.", "holds no blobs"),
        (b"(d.", "holds no blobs"),
        (b"(dS'a'\nI1\ns.x", "goes on after its end"),
        (b"S'a\n.", "cut off or damaged"),
        (b"S'\\x4'\n.", "cut off or damaged"),
        (b"I" + b"9" * 5000 + b"\n.", "cut off or damaged|128"),
        (b"g7\n.", "has not built"),
    ],
)
def test_refuses_what_data_does_not_need(tmp_path, body, because):
    path = tmp_path / "x.pkl"
    path.write_bytes(body)
    refused(path, because)


def test_refuses_arrays_that_are_none(tmp_path):
    good = protocol_0({"a": np.zeros((2, 2), np.float32)})
    path = tmp_path / "x.pkl"
    for before, after, because in (
        (b"(I2\nI2\nt", b"(I2\nI3\nt", "wrong size"),
        (b"(I2\nI2\nt", b"(I-2\nI-2\nt", "sensible number"),
        (b"(I2\nI2\nt", b"(I0\nI%d\nI%d\nt" % (2**47, 2**47), "wrong size"),
        (b"S'f4'", b"S'O8'", "not a plain number"),
        (b"I00\nS'", b"I00\nV\\u0100", "wrong size"),
    ):
        assert before in good
        path.write_bytes(good.replace(before, after))
        refused(path, because)


# --- Import and export ---------------------------------------------------------------------------


def test_import_and_export_are_inverse(network, blobs):
    result = importer.import_checkpoint(blobs, network)
    assert set(result.variables) == set(network.shapes) and not result.not_finite
    kernel = result.variables["backbone/stem/conv/kernel"]
    assert kernel[1, 2, 3, 0, 2] == blobs["conv1_w"][2, 0, 1, 2, 3]
    same(exporter.export_checkpoint(result.variables, network, result.rest), blobs)
    start = {key: value for key, value in blobs.items() if "momentum" not in key}
    assert set(importer.import_checkpoint(start, network).rest) == {"lr", "model_iter"}


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"pred_b": None}, "missing: pred_b"),
        ({"res9_w": np.zeros(1, np.float32)}, "unexpected: res9_w"),
        ({"pred_b_momentum": None}, "missing: pred_b_momentum"),
        ({"pred_w": np.zeros((7, 128), np.float32)}, "7 classes, the config's is .* 25 classes"),
        ({"lr": None}, "no lr"),
        ({"model_iter": 1.5}, "not a whole number"),
        ({"res_conv1_bn_s": np.zeros(4)}, "not of float32"),
    ],
)
def test_import_is_strict(network, blobs, change, because):
    changed = {k: v for k, v in {**blobs, **change}.items() if v is not None}
    with pytest.raises(UserError, match=because):
        importer.import_checkpoint(changed, network)


def test_names_the_network_of_another_file(blobs):
    other = build_network(model(num_classes=CLASSES, base_channels=WIDTH, kind="c2d"))
    with pytest.raises(UserError, match=r"holds I3D R-50 with .* is C2D R-50 with non-local"):
        importer.import_checkpoint(blobs, other)


def test_values_that_are_not_finite_are_named(network, blobs):
    broken = {**blobs, "conv1_w": np.full_like(blobs["conv1_w"], np.nan)}
    result = importer.import_checkpoint(broken, network)
    assert result.not_finite == ["backbone/stem/conv/kernel"]


def test_inflates_a_2d_network(blobs):
    flat = {
        key: value[:, :, 0] if np.ndim(value) == 5 else value
        for key, value in blobs.items()
        if not key.startswith("nonlocal") and "momentum" not in key
    }
    flat["pred_w"] = np.zeros((1000, 128), np.float32)
    for kind, frames in (("c2d", 1), ("i3d", 5)):
        network = build_network(model(num_classes=CLASSES, base_channels=WIDTH, kind=kind))
        result = importer.import_initial(flat, network)
        kernel = result.variables["backbone/stem/conv/kernel"]
        assert kernel.shape[0] == frames
        expected = (flat["conv1_w"] / np.float32(frames)).transpose(2, 3, 1, 0)
        for frame in kernel:
            np.testing.assert_array_equal(frame, expected)
        assert len(result.inflated) == 53 and set(result.left_out) >= {"lr", "pred_w", "pred_b"}
        random = set(network.shapes) - set(result.variables)
        assert set(result.new) == random
        assert all(name.startswith(("head/", "backbone/non_local/")) for name in random)
    del flat["res4_3_branch2b_w"]
    with pytest.raises(UserError, match="missing: res4_3_branch2b_w"):
        importer.import_initial(flat, network)


def test_affine_weights_give_the_same_network(network, blobs):
    """Without non-local blocks, the affine network computes what the one with batch norm did."""
    blobs = {k: v for k, v in blobs.items() if not k.startswith("nonlocal")}
    settings = {"num_classes": CLASSES, "base_channels": WIDTH, "non_local": False}
    before = build_network(model(**settings))
    after = build_network(model(norm="affine", **settings))
    result = importer.import_initial(exporter.to_affine(blobs), after)
    assert not any("scale" in name for name in after.trainable)
    x = clip(1, 4, 64, 64, 3)
    maps = [
        jax.jit(lambda v, n=n: n.bind_for_inference(v).backbone(x))(v)
        for n, v in (
            (before, variables(before.shapes, before.caffe2_keys, blobs)),
            (after, _with_new(after, result.variables)),
        )
    ]
    assert_close(np.asarray(maps[0]), np.asarray(maps[1]), 1e-5)


def _with_new(network, found):
    """Zeros for variables that are not found."""
    shapes = network.shapes
    return {k: jnp.asarray(found.get(k, np.zeros(s.shape, s.dtype))) for k, s in shapes.items()}


# --- The original's files ------------------------------------------------------------------------


def test_the_original_file_gives_the_original_outputs(shared, network, tmp_path):
    blobs = blob_file.read(shared / "video" / "c2_model_iter2.pkl")
    result = importer.import_checkpoint(blobs, network)
    assert len(result.rest) == 213 and blobs["model_iter"] == 2
    blob_file.write(
        tmp_path / "x.pkl", exporter.export_checkpoint(result.variables, network, result.rest)
    )
    same(blob_file.read(tmp_path / "x.pkl"), blobs)

    expected = golden(shared / "video" / "golden_tiny_ckpt.npz")
    recognizer = network.bind_for_inference(
        {k: jnp.asarray(v) for k, v in result.variables.items()}
    )
    layers = dict(recognizer.backbone.layers())
    names = {
        "stem": "pool1",
        "res2/2": "res2_2_branch2c_bn",
        "pool2": "pool2",
        "non_local/res3/3": "nonlocal_conv3_3_sum",
        "non_local/res4/5": "nonlocal_conv4_5_sum",
        "res5/2": "res5_2_branch2c_bn",
    }

    @jax.jit
    def run(x):
        maps = {}
        for name, layer in layers.items():
            x = maps[name] = layer(x)
        return maps, recognizer.head.probabilities(x)

    maps, probabilities = run(clip(2, 8, 224, 224, 2201))
    for name, key in names.items():
        strides = tuple(slice(None, None, int(s)) for s in expected[f"{key}|stride"])
        assert maps[name].shape[0] == 2
        assert_close(theirs(maps[name])[strides], expected[key], 3e-5)
    assert_close(np.asarray(probabilities), expected["softmax"], 3e-5)


@pytest.mark.parametrize("form", ["affine", "finetune"])
def test_conversions_equal_the_original(shared, form):
    blobs = blob_file.read(shared / "video" / "c2_model_iter2.pkl")
    convert = exporter.to_affine if form == "affine" else exporter.for_fine_tuning
    same(convert(blobs), blob_file.read(shared / "video" / f"{form}_model_tiny.pkl"))
