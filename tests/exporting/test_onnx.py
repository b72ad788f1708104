"""Networks as ONNX models, run by ONNX Runtime."""

import json

import numpy as np
import onnx
import pytest
from exports import SLIDE, assert_same, picture, predicted, request
from networks import NUM_CLASSES
from onnx import TensorProto, helper
from PIL import Image

from nonlocal_jax.errors import UserError
from nonlocal_jax.exporting import stablehlo
from nonlocal_jax.exporting.onnx import file, network, write
from nonlocal_jax.exporting.onnx.graph import IR_VERSION, OPSET
from nonlocal_jax.exporting.onnx.session import Session

CASES = {
    "indices": ("indices", False, {}),
    "windows": ("probabilities", False, {**SLIDE, "model.align_corners": True}),
    "average": ("probabilities", True, {"eval.tta_ratios": (0.75, 1.25)}),
}
REST = ("fcn", "gc", "da", "ema")
SIZES = ((51, 75), (97, 64))
# Some take other operations than the rest; the rest is for `make soak`.
HEADS = ("dnl", "ann", "cc", "isa", *(pytest.param(n, marks=pytest.mark.soak) for n in REST))


@pytest.fixture
def photo(tmp_path_factory):
    """A file with a small picture."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(picture(*SIZES[0])).save(path)
    return path


def session(asked):
    model = network.build(asked)
    onnx.checker.check_model(model)
    return Session(model.SerializeToString(), threads=1)


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_the_predictor_computes(case):
    result, tta, overrides = CASES[case]
    asked = request("", result, tta=tta, **overrides)
    run = session(asked)
    for height, width in SIZES if case == "indices" else SIZES[:1]:
        images = np.stack([picture(height, width, seed=seed) for seed in range(2)])
        for image, own in zip(images, run(images), strict=True):
            assert_same(own, predicted(asked, image))


def test_keys_of_fewer_positions_are_exported():
    asked = request("", "logits", **{"model.decode_head.sub_sample": True})
    run = session(asked)
    image = picture(*SIZES[0])
    assert_same(run(image[None])[0], predicted(asked, image))
    assert run(picture(1, 300)[None]).shape[0] == 1  # too flat for two rows of positions


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (network.build, {"mode": "concatenation"}),
        (stablehlo.exported, {"mode": "concatenation"}),
        (stablehlo.exported, {"sub_sample": True}),
    ],
)
def test_what_needs_known_sizes_is_refused(build, options):
    asked = request("", "logits", **{f"model.decode_head.{k}": v for k, v in options.items()})
    with pytest.raises(UserError, match="can't be exported"):
        build(asked)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_exported_for_all_sizes(name):
    asked = request("", "logits", **{"model.decode_head.name": name})
    run = session(asked)
    image = picture(*SIZES[0])
    assert_same(run(image[None])[0], predicted(asked, image))
    assert run(picture(33, 40)[None]).shape == (1, 8, 10, NUM_CLASSES)


@pytest.mark.soak
@pytest.mark.parametrize("branches", ["both", "collect", "distribute"])
def test_the_psa_head_is_exported_for_all_sizes(branches):
    head = {"name": "psa", "mask_size": (5, 7), "branches": branches}
    overrides = {f"model.decode_head.{key}": value for key, value in head.items()}
    asked = request("", "logits", **overrides)
    run = session(asked)
    for size in ((51, 75), (60, 64), (64, 60)):  # with a rest on both axes, on none, on one
        image = picture(*size)
        assert_same(run(image[None])[0], predicted(asked, image))


def test_the_file_tells_its_classes_and_names_input_and_output(tmp_path, photo):
    path = tmp_path / "network.onnx"
    told = write(request(path, "logits", images=[photo])).lines
    assert "99.99" in told[0] or "100." in told[0]
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    held = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(held["class_names"]) == [f"class {index}" for index in range(NUM_CLASSES)]
    assert np.array(json.loads(held["palette"])).shape == (NUM_CLASSES, 3)


def test_an_export_that_differs_is_not_written(tmp_path, photo, monkeypatch):
    path = tmp_path / "network.onnx"
    monkeypatch.setattr(Session, "__call__", lambda self, images: np.zeros(images.shape[:3], "u1"))
    with pytest.raises(UserError, match="not what JAX computes"):
        write(request(path, images=[photo]))
    assert not list(tmp_path.iterdir())


def test_other_dtypes_are_refused():
    with pytest.raises(UserError, match=r"float32.*--config\.model\.dtype"):
        network.build(request("", **{"model.dtype": "bfloat16"}))


def test_what_has_no_counterpart_is_told_with_its_head(monkeypatch):
    from nonlocal_jax.exporting.onnx import convert

    monkeypatch.delitem(convert.HANDLERS, "exp")
    with pytest.raises(UserError, match=r"head 'nonlocal'.*JAX's exp"):
        network.build(request())


def test_what_onnx_runtime_cannot_run_is_told_in_a_sentence(tmp_path, monkeypatch):
    bools = [helper.make_tensor_value_info(name, TensorProto.BOOL, [None]) for name in "xy"]
    node = helper.make_node("Max", ["x", "x"], ["y"])  # it takes numbers alone
    graph = helper.make_graph([node], "max", bools[:1], bools[1:])
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    monkeypatch.setattr(file, "build", lambda asked: model)
    with pytest.raises(UserError, match=r"ONNX Runtime can't run .*Max.*Nothing was written\.$"):
        write(request(tmp_path / "network.onnx"))
    assert not list(tmp_path.iterdir())
