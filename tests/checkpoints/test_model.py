"""Checkpoints of a network: whole or absent, found again, and what they say of themselves."""

import json

import numpy as np
import pytest
from networks import CONFIGS, tiny_config
from saved import VARIABLES, contents, flip, largest, train

from nonlocal_jax.checkpoints import compare, folder, locate, metadata, model, run
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError

CLASSES = {"CLASSES": ["a", "b"], "PALETTE": [[1, 2, 3], [4, 5, 6]]}


def change_metadata(step, **values):
    """As a later version would have written it."""
    file = step / folder.METADATA
    tree = json.loads(file.read_text())
    for key, value in values.items():
        node, names = tree, key.split("__")
        for name in names[:-1]:
            node = node[name]
        node[names[-1]] = value
    file.write_text(json.dumps(tree))
    folder.write_digests(step)


def test_a_model_comes_back_as_it_was(tmp_path):
    config = tiny_config()
    given = Metadata(
        kind="segmentor",
        config=config,
        network="x",
        meta=CLASSES,
        source={"file": "x.pth"},
        counters={"a.num_batches_tracked": 3},
    )
    model.save_model(tmp_path / "model", VARIABLES, given)
    loaded, read = model.load_model(tmp_path / "model")
    assert read == given and read.config == config and read.model == config.model
    assert read.class_names == ("a", "b")
    np.testing.assert_array_equal(read.palette, CLASSES["PALETTE"])
    assert loaded.keys() == VARIABLES.keys()
    for name, value in VARIABLES.items():
        np.testing.assert_array_equal(loaded[name], value, strict=True)


def test_nothing_is_overwritten_and_nothing_partial_is_left(tmp_path):
    model.save_model(tmp_path / "model", VARIABLES, Metadata(kind="segmentor"))
    with pytest.raises(UserError, match="exists already"):
        model.save_model(tmp_path / "model", VARIABLES, Metadata(kind="segmentor"))
    with pytest.raises(TypeError):  # JSON can't hold it
        model.save_model(tmp_path / "other", VARIABLES, Metadata(kind="segmentor", meta={"a": {1}}))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_reading_warns_of_nothing(tmp_path, capfd):
    model.save_model(tmp_path / "model", VARIABLES, Metadata(kind="segmentor"))
    capfd.readouterr()
    model.load_model(tmp_path / "model")
    assert capfd.readouterr() == ("", "")


# --- Where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/8"])
def test_a_network_is_loaded_from_a_run_and_from_its_parts(tmp_path, place):
    train(tmp_path, [3, 8])
    loaded, read = model.load_model(tmp_path / place)
    assert read.kind == "training" and read.step == 8
    np.testing.assert_array_equal(
        loaded["decode_head/classifier/bias"], VARIABLES["decode_head/classifier/bias"] + 8
    )


def test_the_best_is_taken_unless_another_is_asked_for(tmp_path):
    train(tmp_path, [3, 8, 9, 12], keep=4, mious={3: 0.5, 8: 0.7, 9: 0.6})
    for step, expected in ((None, 8), ("best", 8), ("latest", 12), (3, 3)):
        found = locate.find(tmp_path, step)
        assert (found.step, found.run) == (expected, tmp_path)
        assert found.folder == tmp_path / "checkpoints" / str(expected)
    assert str(found) == f"step 3 of {tmp_path}"
    with pytest.raises(UserError, match=r"has no checkpoint of step 4. It has: 3, 8, 9, 12"):
        locate.find(tmp_path, 4)
    with pytest.raises(UserError, match="one checkpoint"):
        locate.find(tmp_path / "checkpoints" / "3", "best")
    assert locate.find(tmp_path / "checkpoints" / "3", 3).step == 3


def test_a_damaged_best_is_passed_over_with_a_word(tmp_path, capsys):
    train(tmp_path, [3, 8, 9], keep=3, mious={3: 0.5, 8: 0.7})
    flip(largest(tmp_path / "checkpoints" / "8" / "model"))
    assert locate.find(tmp_path).step == 3
    assert "Passed over" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"damaged.*has changed"):
        model.load_model(tmp_path, 8)


def test_without_a_score_there_is_no_best(tmp_path):
    train(tmp_path, [3, 8])
    with pytest.raises(UserError, match="has been evaluated"):
        locate.find(tmp_path, "best")


def test_steps_on_the_command_line():
    assert [locate.parse_step(t) for t in ("", "best", "latest", "12")] == [
        None, "best", "latest", 12,
    ]  # fmt: skip
    for text in ("Best", "-1", "1.5", "first", "²"):
        with pytest.raises(UserError, match="--step is"):
            locate.parse_step(text)


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint"):
        model.load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no checkpoint"):
        model.load_model(tmp_path)


# --- Versions -------------------------------------------------------------------------------------


def test_a_newer_format_is_refused_and_left_alone(tmp_path):
    train(tmp_path, [3, 8])
    file = tmp_path / "checkpoints" / "8" / folder.METADATA
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    before = contents(tmp_path)
    refused = rf"8 has format 99, .*reads up to {metadata.FORMAT}: update nonlocal_jax"
    with pytest.raises(UserError, match=refused):
        run.prepare(tmp_path / "checkpoints")
    with pytest.raises(UserError, match=refused):
        model.load_model(tmp_path)
    assert contents(tmp_path) == before


def test_a_newer_key_is_refused_by_its_name(tmp_path):
    given = Metadata(kind="segmentor", config=tiny_config())
    model.save_model(tmp_path / "model", VARIABLES, given)
    change_metadata(tmp_path / "model", config__model__backbone__activation="gelu")
    with pytest.raises(UserError, match=r"can't be used here.*no key model\.backbone\.activation"):
        model.load_model(tmp_path / "model")


def test_metadata_that_are_none_are_refused():
    for text in ("{", "[]", "{}", '{"kind": "other"}', '{"kind": "training", "meta": 3}',
                 '{"kind": "training", "format": 1e999}'):  # fmt: skip
        with pytest.raises(UserError, match="no readable metadata"):
            metadata.from_json(text, "x")


def test_odd_class_names_and_palettes_count_for_nothing():
    for meta in ({}, {"CLASSES": "road"}, {"CLASSES": [1]}, {"PALETTE": [[1, 2]]},
                 {"PALETTE": [[1, 2, 300]]}, {"PALETTE": [[1, 2, 3], [1]]}):  # fmt: skip
        given = Metadata(kind="segmentor", meta=meta)
        assert given.class_names is None and given.palette is None


def test_a_config_that_is_not_known_is_asked_for():
    old = {"kind": "segmentor", "network": "mine", "model": {"num_classes": 3}}
    read = metadata.from_json(json.dumps(old), "x")
    assert read.config is None and read.model.num_classes == 3
    with pytest.raises(UserError, match=r"mine, which is not installed.*--config=FILE"):
        read.needed_config("x")
    backbone = Metadata(kind="backbone", network="resnet50_v1c")
    with pytest.raises(UserError, match=r"is a backbone \(resnet50_v1c\)"):
        backbone.needed_config("x")


# --- Another network ------------------------------------------------------------------------------


def load(**overrides):
    return files.load(CONFIGS / "cityscapes_r50_512x1024_40k.py", **overrides)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.backbone.variant", "v1d"),
        ("model.backbone.contract_dilation", False),
        ("model.backbone.output_stride", 16),
        ("model.align_corners", True),
        ("model.decode_head.mode", "dot_product"),
        ("model.decode_head.use_scale", False),
        ("model.decode_head.sub_sample", True),
        ("model.decode_head.stage", "stage3"),
    ],
)
def test_what_shapes_do_not_say_is_compared(key, value):
    before = load()
    given, now = Metadata(kind="segmentor", config=before), files.override(before, **{key: value})
    assert list(compare.meaning(given, now.model)) == [key]
    with pytest.raises(UserError, match=rf"another network.*\n  config\.{key} was .*, is {value}"):
        compare.check("x", given, {}, now.model, {})
    compare.check("x", given, {}, now.model, {}, departing=[key])


def test_what_changes_no_output_is_not_compared():
    before = load()
    now = files.override(
        before,
        **{
            "model.dtype": "bfloat16",
            "model.remat": "blocks",
            "model.backbone.frozen_stages": 2,
            "model.backbone.scan_blocks": True,
            "model.decode_head.dropout": 0.5,
            "model.decode_head.implementation": "chunked",
            "model.auxiliary_head.stage": "stage2",
        },
    )
    given = Metadata(kind="segmentor", config=before)
    assert compare.meaning(given, now.model, auxiliary_head=False) == {}
    assert list(compare.meaning(given, now.model)) == ["model.auxiliary_head.stage"]


def test_an_imported_backbone_says_its_variant():
    given = Metadata(kind="backbone", network="resnet50_v1c")
    assert compare.meaning(given, load().model) == {}
    other = load(**{"model.backbone.variant": "v1d"})
    assert list(compare.meaning(given, other.model)) == ["model.backbone.variant"]


def test_arrays_are_compared_by_name_and_shape():
    lines = compare.difference({"a": (1,), "b": np.zeros((2, 3))}, {"b": (3, 2), "c": (4,)})
    assert lines == ["missing: c", "unexpected: a", "b: (2, 3) there, (3, 2) here"]


def test_other_classes_are_told_by_name():
    given = Metadata(kind="segmentor", meta={"CLASSES": ["road", "sky", "tree"]})
    assert compare.classes(given, ("road", "sky", "tree")) is None
    assert (
        "its classes in another order: label 1 is 'sky' there and 'tree' here"
        in compare.classes(given, ("road", "tree", "sky"))
    )
    assert "other classes: label 2 is 'tree' there and 'plant' here" in compare.classes(
        given, ("road", "sky", "plant")
    )
    assert "has 3 classes, and there are 1 here" in compare.classes(given, ("road",))
    assert compare.classes(Metadata(kind="segmentor"), ("a",)) is None


@pytest.mark.parametrize("place", [None, 3, b"run", ""])
def test_what_is_no_path_is_said(place):
    with pytest.raises(UserError, match="must be the path of a folder"):
        locate.find(place)


@pytest.mark.parametrize("step", [8.5, True, "newest"])
def test_what_is_no_step_is_said(tmp_path, step):
    with pytest.raises(UserError, match="it must be best, latest or the number of a step"):
        locate.find(tmp_path, step)
