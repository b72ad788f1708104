"""The converter: key table, strict difference, downloads, and the command from end to end."""

import os
import shutil
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
from conversions import ROW, reference_networks, shapes_and_keys, tiny_config
from networks import CONFIGS, GOLDEN

from nonlocal_jax.checkpoints import locate, model
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.checkpoints.pytorch import convert, difference, rules, torch_file
from nonlocal_jax.checkpoints.pytorch.exporter import export_checkpoint
from nonlocal_jax.checkpoints.pytorch.importer import import_checkpoint
from nonlocal_jax.checkpoints.pytorch.pickle_names import Unknown
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError

ROWS = sorted(CONFIGS.glob("*_r*k.py"))


@pytest.fixture(scope="module")
def tiny():
    """Shapes and keys of the network that the golden files are of."""
    return shapes_and_keys(tiny_config())


@pytest.fixture
def tree():
    return torch_file.read(GOLDEN / "convert_legacy.pth")


def check_against_reference(config, expected):
    shapes, keys = shapes_and_keys(config)
    entries = rules.torch_entries(shapes, keys)
    ours = rules.torch_shapes(shapes, keys)
    ours |= {key: () for entry in entries.values() for key in entry.counters}
    assert ours == expected
    assert len({entry.key for entry in entries.values()}) == len(entries)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.stem)
def test_table_gives_exactly_the_tensors_of_the_reference(row):
    config = files.load(row)
    stem = config.published.url.split("/")[-2]
    check_against_reference(config, reference_networks()[stem])


@pytest.mark.parametrize("network", ["v1c 18", "v1c 34", "v1c 152", "v1d 18", "v1d 50"])
def test_table_knows_other_backbones(network):
    variant, depth = network.split(" ")
    overrides = {"model.backbone.variant": variant, "model.backbone.depth": int(depth)}
    check_against_reference(files.load(ROW, **overrides), reference_networks()[network])


def test_there_are_sixteen_rows():
    assert len(ROWS) == 16


def test_layouts_and_their_inverses():
    conv = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    ours = rules.to_ours(conv, "OIHW")
    assert ours.shape == (5, 7, 3, 2) and ours[4, 6, 1, 0] == conv[0, 1, 4, 6]
    np.testing.assert_array_equal(rules.to_torch(ours, "OIHW"), conv)
    linear = np.arange(6).reshape(2, 3, 1, 1)
    ours = rules.to_ours(linear, "OI11")
    assert ours.shape == (3, 2) and ours[2, 1] == linear[1, 2, 0, 0]
    np.testing.assert_array_equal(rules.to_torch(ours, "OI11"), linear)
    for layout, shape in (("OIHW", (5, 7, 3, 2)), ("OI11", (3, 2)), ("C", (4,))):
        array = np.zeros(shape)
        assert rules.torch_shape(shape, layout) == rules.to_torch(array, layout).shape


def import_from(tree, network):
    shapes, keys = network
    return import_checkpoint(tree, shapes, keys=keys)


def test_import_puts_every_tensor_in_its_place(tree, tiny):
    result = import_from(tree, tiny)
    state = tree["state_dict"]
    assert {name: value.shape for name, value in result.variables.items()} == tiny[0]
    theta = state["decode_head.nl_block.theta.conv.weight"][:, :, 0, 0].T
    np.testing.assert_array_equal(result.variables["decode_head/non_local/theta/kernel"], theta)
    np.testing.assert_array_equal(
        result.variables["backbone/stage4/0/downsample/norm/var"],
        state["backbone.layer4.0.downsample.1.running_var"],
    )
    np.testing.assert_array_equal(
        result.variables["backbone/stem/1/conv/kernel"],
        state["backbone.stem.3.weight"].transpose(2, 3, 1, 0),
    )
    for key, count in result.counters.items():
        assert count == state[key] > 999
    assert len(result.counters) + len(result.variables) == len(state)
    assert result.meta["CLASSES"] == ["road", "tree", "sky"] and result.not_finite == []


@pytest.mark.parametrize("legacy", [False, True])
def test_export_of_an_import_has_every_tensor_byte_for_byte(tmp_path, tree, tiny, legacy):
    result = import_from(tree, tiny)
    metadata = Metadata(kind="segmentor", meta=result.meta, counters=result.counters)
    exported = export_checkpoint(result.variables, metadata, tiny[0], keys=tiny[1])
    torch_file.write(tmp_path / "x.pth", exported, legacy=legacy)
    read = torch_file.read(tmp_path / "x.pth")
    assert read["meta"] == tree["meta"]
    assert read["state_dict"].keys() == tree["state_dict"].keys()
    for key, value in tree["state_dict"].items():
        other = read["state_dict"][key]
        assert (value.dtype, value.shape) == (other.dtype, other.shape)
        assert value.tobytes() == other.tobytes()


def test_export_refuses_variables_of_another_network(tree, tiny):
    variables = import_from(tree, tiny).variables
    del variables["decode_head/classifier/bias"]
    with pytest.raises(UserError, match=r"decode_head\.conv_seg\.bias"):
        export_checkpoint(variables, Metadata(kind="segmentor"), tiny[0], keys=tiny[1])
    with pytest.raises(UserError, match="optimizer/mu"):
        variables = {"optimizer/mu": np.zeros(1)}
        export_checkpoint(variables, Metadata(kind="segmentor"), tiny[0], keys=tiny[1])


def test_all_differences_are_listed_at_once(tree, tiny):
    state = tree["state_dict"]
    del state["decode_head.convs.0.bn.weight"], state["decode_head.convs.0.bn.running_var"]
    state["decode_head.conv_seg.extra"] = np.zeros(3, np.float32)
    state["neck.conv.num_batches_tracked"] = np.array(1)
    state["backbone.stem.0.weight"] = np.zeros((2, 3, 3, 3), np.float32)
    with pytest.raises(UserError) as caught:
        import_from(tree, tiny)
    message = str(caught.value)
    assert "missing in the file (2):\n  decode_head.convs.0.bn.{weight,running_var}" in message
    assert "unexpected in the file (2):" in message
    assert "  decode_head.conv_seg.extra" in message
    assert "  neck.conv.num_batches_tracked" in message
    assert "  backbone.stem.0.weight: (2, 3, 3, 3) in the file, (1, 3, 3, 3) needed" in message


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"model.backbone.depth": 101},
            "the file's backbone is R-50 (V1c), the config's is R-101 (V1c)",
        ),
        (
            {"model.backbone.depth": 34},
            "the file's backbone is R-50 (V1c), the config's is R-34 (V1c)",
        ),
        ({"model.backbone.variant": "v1d"}, "R-50 (V1c), the config's is R-50 (V1d)"),
        ({"model.num_classes": 19}, "the file has 3 classes, the config 19"),
        ({"model.backbone.base_channels": 4}, "other widths"),
        ({"model.decode_head.name": "fcn"}, "other parts"),
    ],
)
def test_says_why_a_file_does_not_fit(tree, overrides, reason):
    config = tiny_config(**overrides)
    with pytest.raises(UserError) as caught:
        import_from(tree, shapes_and_keys(config))
    assert reason in str(caught.value).splitlines()[0]


def test_a_backbone_without_the_deep_stem_is_named(tree, tiny):
    state = {k: v for k, v in tree["state_dict"].items() if "backbone.stem" not in k}
    with pytest.raises(UserError, match="R-50 without the deep stem"):
        import_from(state, tiny)


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (lambda tree: {"meta": {}}, "not a tensor"),
        (lambda tree: [1, 2], "no state_dict"),
        (lambda tree: {"state_dict": {}}, "no state_dict"),
        (lambda tree: {"state_dict": {1: np.zeros(2)}}, "not a tensor"),
        (lambda tree: changed(tree, "backbone.stem.0.weight", np.int64), "floating-point"),
        (
            lambda tree: changed(tree, "backbone.stem.1.num_batches_tracked", np.float32),
            "whole number",
        ),
    ],
)
def test_refuses_trees_that_are_no_checkpoint(tree, tiny, damage, because):
    with pytest.raises(UserError, match=because):
        import_from(damage(tree), tiny)


def changed(tree, key, dtype):
    tree["state_dict"][key] = tree["state_dict"][key].astype(dtype)
    return tree


def test_meta_keeps_what_json_can_hold(tree, tiny):
    tree["meta"] = {"a": (1, [None]), "b": b"x", "c": {"d": np.zeros(2)}, "e": 1.5, 3: "f"}
    meta = import_from(tree, tiny).meta
    assert meta == {"a": [1, [None]], "e": 1.5, "3": "f"}


def test_backbone_files_leave_the_classifier_out(tree, tiny):
    state = OrderedDict(
        (key.removeprefix("backbone."), value)
        for key, value in tree["state_dict"].items()
        if key.startswith("backbone.")
    )
    state["fc.weight"], state["fc.bias"] = np.zeros((10, 64), np.float32), np.zeros(10, np.float32)
    keys = convert.backbone_target("resnet50_v1c").keys
    expected = {name: shape for name, shape in tiny[0].items() if name.startswith("backbone/")}
    result = import_checkpoint(state, expected, keys=keys, backbone=True)
    assert result.variables.keys() == expected.keys()
    assert result.ignored == ["fc.weight", "fc.bias"]
    state["fc2.weight"] = state["fc.weight"]
    with pytest.raises(UserError, match=r"backbone\.fc2\.weight"):
        import_checkpoint(state, expected, keys=keys, backbone=True)


def test_a_wrapped_network_is_unwrapped(tree, tiny):
    result = import_from(tree, tiny)
    tree["state_dict"] = {f"module.{key}": value for key, value in tree["state_dict"].items()}
    wrapped = import_from(tree, tiny)
    assert wrapped.counters == result.counters
    for name, value in result.variables.items():
        np.testing.assert_array_equal(wrapped.variables[name], value)


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "model.", "module.module.", "module._orig_mod.", "segmentor.", "decode_head."],
)
def test_any_one_prefix_of_all_keys_is_taken_off(tree, tiny, prefix):
    result = import_from(tree, tiny)
    state = {f"{prefix}{key}": value for key, value in tree["state_dict"].items()}
    state[f"{prefix}ema_decode_head_conv_seg_bias"] = np.zeros(3, np.float32)
    wrapped = import_from({"state_dict": state}, tiny)
    assert (wrapped.prefix, result.prefix) == (prefix, "")
    assert wrapped.counters == result.counters
    for name, value in result.variables.items():
        np.testing.assert_array_equal(wrapped.variables[name], value)


def test_a_prefix_of_a_network_that_does_not_fit_hides_nothing(tree, tiny):
    state = {f"_orig_mod.{key}": value for key, value in tree["state_dict"].items()}
    del state["_orig_mod.decode_head.conv_seg.bias"]
    with pytest.raises(UserError, match=r"missing in the file \(1\):\n  decode_head.conv_seg.bias"):
        import_from(state, tiny)
    state["other"] = np.zeros(1, np.float32)  # no prefix of all keys
    with pytest.raises(UserError, match=r"_orig_mod\.backbone"):
        import_from(state, tiny)


@pytest.mark.parametrize(
    "path",
    [("model",), ("model", "state_dict"), ("state_dict", "state_dict"), ("model_state_dict",)],
)
def test_weights_below_other_keys_are_found(tree, tiny, path):
    result = import_from(tree, tiny)
    wrapped = tree["state_dict"]
    for key in reversed(path):
        wrapped = {key: wrapped, "epoch": 3}
    found = import_from({**wrapped, "meta": tree["meta"]}, tiny)
    assert found.path == path and found.meta == result.meta
    for name, value in result.variables.items():
        np.testing.assert_array_equal(found.variables[name], value)


def test_data_that_no_weight_depends_on_is_left_out_by_name(tree, tiny):
    unknown = Unknown("datetime.datetime", "it names datetime.datetime")
    tree["meta"] |= {"time": unknown, "all": {"a": [unknown]}, "b": b"x", "epoch": 3}
    tree |= {"optimizer": {"a": np.zeros(2)}, "hub": {"b": (unknown,)}}
    result = import_from(tree, tiny)
    assert result.left_out == [
        "meta.time (datetime.datetime)",
        "meta.all (datetime.datetime)",
        "meta.b (bytes)",
        "hub (datetime.datetime)",
    ]
    assert result.meta["CLASSES"] == ["road", "tree", "sky"] and result.meta["epoch"] == 3
    tree["meta"] = unknown
    result = import_from(tree, tiny)
    assert result.meta == {} and result.left_out[0] == "meta (datetime.datetime)"
    tree["state_dict"]["decode_head.conv_seg.bias"] = unknown
    with pytest.raises(UserError, match=r"conv_seg\.bias .* it names datetime\.datetime"):
        import_from(tree, tiny)
    with pytest.raises(UserError, match=r"state_dict .* it names datetime\.datetime"):
        import_from({"state_dict": unknown}, tiny)


def test_values_beyond_the_range_of_float32_are_not_finite(tree, tiny):
    bias = np.array([3e38, -3e38, 0])
    tree["state_dict"]["decode_head.conv_seg.bias"] = bias
    assert import_from(tree, tiny).not_finite == []
    tree["state_dict"]["decode_head.conv_seg.bias"] = bias * 10
    assert import_from(tree, tiny).not_finite == ["decode_head/classifier/bias"]


def test_a_moving_average_beside_the_weights_is_left_out(tree, tiny):
    bias = tree["state_dict"]["decode_head.conv_seg.bias"]
    tree["state_dict"]["ema_decode_head_conv_seg_bias"] = bias + 1
    result = import_from(tree, tiny)
    assert result.ignored == ["ema_decode_head_conv_seg_bias"]
    np.testing.assert_array_equal(result.variables["decode_head/classifier/bias"], bias)


def test_backbone_names():
    target = convert.backbone_target("resnet50_v1c")
    assert target.shapes["backbone/stage4/2/conv3/conv/kernel"] == (1, 1, 512, 2048)
    assert target.url.endswith("resnet50_v1c-2cccc1ad.pth")
    assert convert.backbone_target("resnet18_v1d").url == ""
    assert convert.backbone_target("resnet50_v1").url.endswith("resnet50-0676ba61.pth")
    for name in ("resnet51_v1c", "resnet50", "resnet50_v2", "resnet50_caffe", "../resnet50_v1c"):
        with pytest.raises(UserError, match="is not known"):
            convert.backbone_target(name)


def test_an_equal_network_has_no_difference():
    keys = convert.backbone_target("resnet50_v1c").keys
    assert difference.report({"a.weight": (1, 2)}, {"a.weight": (1, 2)}, keys) is None


# --- against the reference, where it is installed ------------------------------------------------


def reference(*arguments):
    """Runs tests/golden/convert_reference.py with the reference's Python."""
    python = os.environ.get("NONLOCAL_JAX_PEER")
    if not python:
        pytest.skip("set NONLOCAL_JAX_PEER to a Python that has the PyTorch reference")
    script = GOLDEN / "convert_reference.py"
    words = [python, "-W", "ignore", script, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parity
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.stem)
def test_full_width_import_and_export(tmp_path, row):
    """Both forms import alike; exports load strictly, byte for byte equal in every tensor."""
    config = files.load(row)
    stem = config.published.url.split("/")[-2]
    target = convert.config_target(config, row.stem)
    reference("init", stem, tmp_path / "legacy.pth", tmp_path / "zip.pth")
    for form in ("legacy", "zip"):
        source, folder = tmp_path / f"{form}.pth", tmp_path / form
        convert.import_(target, str(source), folder)
        exported = tmp_path / f"{form}_exported.pth"
        convert.export(locate.find(folder), config, exported, legacy=form == "legacy")
        reference("compare", stem, source, exported)
        source.unlink()
        exported.unlink()
    legacy, zipped = (model.load_model(tmp_path / form)[0] for form in ("legacy", "zip"))
    for name, value in legacy.items():
        np.testing.assert_array_equal(value, zipped[name], strict=True)
    shutil.rmtree(tmp_path)
