"""ImageNet weights of torchvision and timm: their names, and the feature maps that they give."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conversions import reference_networks
from flax import nnx
from networks import GOLDEN, assert_close, fingerprint, images, weights

from nonlocal_jax import convert as command
from nonlocal_jax.checkpoints import compare, model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import convert, importer, torch_file
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones import resnet
from nonlocal_jax.models.functional import Functional
from nonlocal_jax.models.layers import ConvNorm
from nonlocal_jax.models.numerics import Numerics
from nonlocal_jax.models.torch_keys import under

SIZE = (45, 58)  # of make_backbones.py
SMALL = {
    "torchvision": {"variant": "v1"},
    "timm": {"variant": "v1d", "output_stride": 32},
    "caffe": {"variant": "v1", "style": "caffe", "output_stride": 16},
}


NETWORKS = reference_networks("backbone_keys.json")  # {"timm resnet50_v1d": {key: shape}}


@pytest.mark.parametrize("name", [n for n in NETWORKS if not n.startswith("small")])
def test_their_files_fit_strictly(name):
    target = convert.backbone_target(name.partition(" ")[2])
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in NETWORKS[name].items()}
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    state |= {key: np.array(7, np.int64) for key in counters}
    result = importer.import_checkpoint(state, target.shapes, keys=target.keys, backbone=True)
    assert result.variables.keys() == target.shapes.keys()
    assert sorted(result.ignored) == ["fc.bias", "fc.weight"]
    assert len(result.counters) == len(counters) > 0
    del state["layer3.1.conv2.weight"]
    with pytest.raises(UserError, match=r"missing in the file \(1\):\n  backbone.layer3.1.conv2"):
        importer.import_checkpoint(state, target.shapes, keys=target.keys, backbone=True)


def test_a_file_of_another_variant_is_named():
    shapes = NETWORKS["torchvision resnet50_v1"]
    state = {
        key: np.zeros(shape, np.int64 if not shape else np.float16) for key, shape in shapes.items()
    }
    target = convert.backbone_target("resnet50_v1c")
    with pytest.raises(UserError, match=r"is R-50 without the deep stem \(V1\), .* R-50 \(V1c\)"):
        importer.import_checkpoint(state, target.shapes, keys=target.keys, backbone=True)


@pytest.mark.parametrize("name", SMALL)
def test_the_feature_maps_are_theirs(name, monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 50, (1, 1, 1, 1))
    options, golden = resnet.Options(**SMALL[name]), np.load(GOLDEN / "backbones.npz")
    with jax.enable_x64(True):
        network = abstract(options)
        keys = network.abstract.torch_keys
        keys = dataclasses.replace(keys, rows=under("backbone", "backbone", keys.rows))
        shapes = {f"backbone/{n}": leaf.shape for n, leaf in network.shapes.items()}
        state = weights(NETWORKS[f"small {name}"])
        loaded = importer.import_checkpoint(state, shapes, keys=keys, backbone=True).variables
        variables = {n.removeprefix("backbone/"): jnp.asarray(v, float) for n, v in loaded.items()}
        stages = jax.jit(lambda x: network.bind_for_inference(variables)(x))
        x = jnp.asarray(images(3, (2, *SIZE, 3)), float)
        for stage, features in stages(x).items():
            assert_close(fingerprint(stage, features), golden[f"{name}/{stage}"], 1e-6)


def abstract(options):
    """The backbone without its arrays."""

    def build():
        return resnet.build(options, Numerics(rngs=nnx.Rngs(0), dtype=jnp.float64))

    return Functional(*nnx.split(nnx.eval_shape(build)))


@pytest.mark.parametrize("stride_first", [False, True])
def test_a_block_keeps_images_of_a_padded_batch_apart(stride_first):
    block = resnet.Bottleneck(
        8,
        4,
        stride=2,
        dilation=1,
        stride_first=stride_first,
        average_shortcut=False,
        conv_norm=functools.partial(ConvNorm, rngs=nnx.Rngs(0)),
    )
    block.conv3.norm.scale.set_value(jnp.ones(16))
    block.eval()
    batch, sizes = np.maximum(images(1, (2, 12, 16, 8)), 0), jnp.asarray([(12, 16), (7, 9)])
    batch[1, 7:] = batch[1, :, 9:] = 0
    together = nnx.jit(lambda block: block(batch, sizes))(block)
    alone = nnx.jit(lambda block: block(batch[1:, :7, :9]))(block)
    assert together.shape == (2, 6, 8, 16)
    np.testing.assert_allclose(together[1, :4, :5], alone[0], rtol=1e-5, atol=1e-6)
    assert not together[1, 4:].any() and not together[1, :, 5:].any()


def test_freezing_the_stem_freezes_the_plain_one():
    options = resnet.Options(variant="v1", depth=18, frozen_stages=0)
    network = abstract(options)
    trained = network.trainable
    assert "stem/0/conv/kernel" in network.shapes and "stem/0/conv/kernel" not in trained
    assert "stage1/0/conv1/conv/kernel" in trained


def test_safetensors_hold_every_type():
    tensors = torch_file.read(GOLDEN / "kinds.safetensors")
    assert len(tensors) == 12
    kinds = {"double": "f8", "float": "f4", "half": "f2", "long": "i8", "int": "i4", "short": "i2"}
    kinds |= {"int8": "i1", "uint8": "u1", "bool": "?", "bfloat16": ml_dtypes.bfloat16}
    for name, dtype in kinds.items():
        assert tensors[name].dtype == np.dtype(dtype)
        assert tensors[name].astype(int).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert tensors["scalar"].shape == () and tensors["scalar"] == 3
    assert tensors["empty"].shape == (0, 4)


def header(**changed):
    """A safetensors file of one tensor of two numbers, with another entry."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}
    text = json.dumps({"a": entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 4,
        header()[:-1],
        header() + b"\x00",
        header(dtype="F8_E4M3"),
        header(dtype=["F32"]),
        header(shape=[3]),
        header(shape=[-2]),
        header(shape="2"),
        header(shape=[True, 2]),
        header(shape=[2**62, 2**62]),
        header(data_offsets=[4, 12]),
        header(shape=[1], data_offsets=[4, 8]),
        header(data_offsets=[0]),
        header(data_offsets="08"),
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{x",
        (5).to_bytes(8, "little") + b'{"":3',
        (2**63).to_bytes(8, "little") + b"{}",
        (2 * 10**5).to_bytes(8, "little") + b"[" * 2 * 10**5,
    ],
)
def test_damaged_safetensors_are_named(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors cannot be read as a safetensors file: "):
        torch_file.read(path)


def test_a_backbone_is_imported_from_safetensors_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 50, (1, 1, 1, 1))
    state = weights(NETWORKS["small timm"])
    source, folder = tmp_path / "timm.safetensors", tmp_path / "resnet50_v1d"
    write_safetensors(source, state)
    assert command.run(["--backbone=resnet50_v1d", f"--input={source}", f"--output={folder}"]) == 0
    assert "Left out by rule: fc." in capsys.readouterr().out
    variables, metadata = model.load_model(folder)
    kernel = variables["backbone/stem/1/conv/kernel"]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), state["conv1.3.weight"])
    assert metadata.network == "resnet50_v1d" and len(variables) == 5 * 19


def write_safetensors(path, tensors):
    entries, content = {}, b""
    names = {np.dtype("f4"): "F32", np.dtype("i8"): "I64"}
    for name, array in tensors.items():
        end = len(content) + array.nbytes
        entry = {"dtype": names[array.dtype], "shape": array.shape}
        entries[name] = {**entry, "data_offsets": [len(content), end]}
        content += array.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def test_a_backbone_of_another_style_is_refused():
    plain = files.load("ade20k_r50_80k", **{"model.backbone.variant": "v1"}).model
    strided = files.override(
        files.load("ade20k_r50_80k"),
        **{"model.backbone.variant": "v1", "model.backbone.style": "caffe"},
    ).model
    for name, same, other in (
        ("resnet50_v1", plain, strided),
        ("resnet50_v1_caffe", strided, plain),
    ):
        metadata = Metadata(kind="backbone", network=name)
        assert not compare.meaning(metadata, same)
        assert list(compare.meaning(metadata, other)) == ["model.backbone.style"]
