"""Every value that makes no sense is refused with its key and its range, in one sentence."""

import dataclasses
import json
import math
import re

import pytest
import values

from nonlocal_jax.config import describe, files, ranges, schema
from nonlocal_jax.errors import UserError

DEFAULTS = files.load("demo")
# No value of its type is wrong for these.
FREE = {"data_dir", "init_from", "published.url", "published.sha256"}
FREE |= {"data.classes_file", "data.train_list", "data.val_list"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("eval.mode", "foo", "'foo'; it must be one of whole, slide"),
        ("optimizer.learning_rate", -1.0, "-1.0; .* more than 0"),
        ("optimizer.learning_rate", math.inf, "inf; it must be a finite number"),
        ("optimizer.learning_rate", math.nan, "nan; it must be a finite number"),
        ("optimizer.learning_rate", 1e39, "at most 1000"),
        (
            "optimizer.schedule.name",
            "sqare",
            "'sqare'; it must be one of polynomial, .*, or a module",
        ),
        ("data.flip_probability", 2.0, "2.0; .* at least 0, at most 1"),
        ("batch_size", 0, "0; it must be a whole number, at least 1"),
        ("batch_size", True, "True; it must be a whole number"),
        ("data.crop_size", (0, 10), r"\(0, 10\); it must be a pair, each .* at least 1"),
        ("data.crop_size", (10,), r"\(10,\); it must be a pair"),
        ("data.num_workers", -5, "-5; .* at least -1"),
        ("data.label_map", {7: 99}, "has 7: 99; a label must be 0 to 4, or 255"),
        ("data.label_map", {300: 1}, r"\{300: 1\}; it must be a mapping"),
        ("data.name", "camvit", "'camvit'; it must be one of cityscapes, .*folder"),
        ("eval.metrics", ("iou", "foo"), "'foo'; it must be one of iou, acc"),
        ("eval.tta_ratios", (), r"\(\); .* 1 or more of them"),
        ("eval.stride", (800, 800), r"\(800, 800\); it must be at most config\.eval\.window"),
        ("data.ratio_range", (2.0, 1.0), "the smaller ratio comes first"),
        ("accumulate_steps", 3, "3; it must divide config.batch_size, 8"),
        ("mesh.data", 0, "0; .* at least -1, not 0"),
        ("seed", -1, "-1; .* at least 0"),
        ("model.backbone.frozen_stages", 9, "9; .* at most 4"),
        ("model.backbone.depth", 51, "51; it must be one of 18, 34, 50, 101, 152"),
        (
            "model.decode_head.name",
            "fcm",
            "'fcm'; it must be one of nonlocal, fcn, .*, or a module",
        ),
        ("model.decode_head.name", "no.such", "there is no module of that name"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_the_range(key, value, message):
    name = "mesh" if key == "mesh" else re.escape(f"config.{key}")
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        files.override(DEFAULTS, **{key: value})


@pytest.mark.parametrize(
    ("key", "hint", "pair"), values.numbers(DEFAULTS), ids=lambda value: str(value)[:40]
)
def test_the_smallest_and_the_largest_value_and_those_beyond(key, hint, pair):
    legal, illegal = values.bounds(hint)
    assert legal and illegal
    refusal = re.compile(re.escape(f"config.{key} is ") + r".*; it must be (a |one )")
    for value in legal:
        given = (value, value) if pair else value
        try:
            config = files.override(DEFAULTS, **{key: given})
        except UserError as error:  # it contradicts another setting
            assert not refusal.match(str(error))
        else:
            assert files.flatten(files.to_tree(config))[key] == given
    for value in illegal:
        with pytest.raises(UserError, match=refusal):
            files.override(DEFAULTS, **{key: (value, value) if pair else value})


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(UserError) as caught:
        files.override(DEFAULTS, **{"batch_size": 0, "seed": -1, "eval.mode": "x"})
    assert len(str(caught.value).splitlines()) == 3


def test_one_axis_of_the_mesh_takes_what_is_left():
    with pytest.raises(UserError, match=r"config\.mesh has more than one -1"):
        files.override(DEFAULTS, **{"mesh.data": -1, "mesh.fsdp": -1})


@pytest.mark.parametrize(
    "setting", [s for s in describe.settings(DEFAULTS) if not s.is_section], ids=lambda s: s.key
)
def test_every_setting_refuses_another_type_and_keeps_its_own(setting):
    if setting.key.endswith(".name"):
        return
    wrong = 3 if isinstance(setting.value, str) else "text"
    with pytest.raises(UserError) as caught:
        files.override(DEFAULTS, **{setting.key: wrong})
    assert f"config.{setting.key} is {wrong!r}; it must be {setting.allowed}." == str(caught.value)
    assert files.override(DEFAULTS, **{setting.key: setting.value}) == DEFAULTS
    assert setting.key in FREE or setting.allowed not in ("", "a text")


def test_unknown_and_misspelt_keys_name_the_nearest():
    for key, nearest in {
        "model.backbone.dept": "model.backbone.depth",
        "learning_rate": "optimizer.learning_rate",
        "optimizer.power": "optimizer.schedule.power",
        "batchsize": "batch_size",
    }.items():
        with pytest.raises(UserError, match=f"no key {re.escape(key)}.*mean {nearest}"):
            files.override(DEFAULTS, **{key: 3})


def test_settings_of_the_other_head_are_unknown():
    fcn = files.override(DEFAULTS, **{"model.decode_head.name": "fcn"})
    assert type(fcn.model.decode_head).__module__.endswith("heads.fcn")
    assert fcn.model.decode_head.channels == DEFAULTS.model.decode_head.channels
    with pytest.raises(UserError, match=r"no key model\.decode_head\.mode"):
        files.override(fcn, **{"model.decode_head.mode": "gaussian"})


@pytest.mark.parametrize(
    ("config", "key", "name"),
    [
        ("demo", "loss.name", "classification"),
        ("demo", "auxiliary_loss.name", "classification"),
        ("demo", "model.backbone.name", "video_resnet"),
        ("demo", "model.decode_head.name", "classification"),
        ("demo", "data.name", "kinetics"),
        ("moving_shapes", "loss.name", "ohem"),
        ("moving_shapes", "model.backbone.name", "resnet"),
        ("moving_shapes", "model.head.name", "fcn"),
        ("moving_shapes", "data.name", "camvid"),
    ],
)
def test_names_for_another_task_are_refused_and_not_offered(config, key, name):
    tasks = ("segmentation", "video") if config == "demo" else ("video", "segmentation")
    told = f"config.{key} is '{name}', which is for {tasks[1]}; this config is for {tasks[0]}."
    with pytest.raises(UserError) as caught:
        files.load(config, **{key: name})
    assert str(caught.value) == told
    with pytest.raises(UserError) as caught:
        files.load(config, **{key: "nothing"})
    offered = re.split(" of |, ", str(caught.value))
    assert name not in offered and files.flatten(files.to_tree(files.load(config)))[key] in offered
    (setting,) = (s for s in describe.settings(files.load(config)) if s.key == key)
    assert name not in re.split(" of |, ", setting.allowed)


def test_steps_of_a_schedule_rise():
    steps = {"optimizer.schedule.name": "steps", "optimizer.schedule.steps": (5, 3)}
    with pytest.raises(UserError, match=r"steps is \(5, 3\); each must be larger than the one"):
        files.override(DEFAULTS, **steps)


def test_a_sum_of_nothing_is_refused():
    weights = {"loss.name": "sum", "loss.first_weight": 0.0, "loss.second_weight": 0.0}
    with pytest.raises(UserError, match=r"config\.loss is a sum whose terms all have the weight 0"):
        files.override(DEFAULTS, **weights)
    assert files.override(DEFAULTS, **weights, **{"loss.third_weight": 1.0})


def test_the_same_loss_is_offered_to_the_auxiliary_head_alone():
    allowed = {s.key: s.allowed for s in describe.settings(DEFAULTS)}
    assert "same" in allowed["auxiliary_loss.name"] and "same" not in allowed["loss.name"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"optimizer.name": "adamw", "optimizer.momentum": 0.9},
            "no key optimizer.momentum: momentum is a key of sgd and caffe2_sgd, and "
            "config.optimizer.name is adamw.",
        ),
        (
            {"optimizer.schedule.name": "cosine", "optimizer.schedule.power": 1.0},
            "no key optimizer.schedule.power: power is a key of polynomial, and "
            "config.optimizer.schedule.name is cosine.",
        ),
        (
            {"loss.first.name": "dice"},
            "no key loss.first: first is a key of sum, and config.loss.name is cross_entropy.",
        ),
    ],
)
def test_a_key_of_another_module_is_told_with_its_modules(changes, told):
    with pytest.raises(UserError) as caught:
        files.override(DEFAULTS, **changes)
    assert str(caught.value) == f"The config has {told}"


def test_a_file_with_a_key_of_another_module_is_told_the_same():
    tree = {"optimizer": {"name": "adamw", "momentum": 0.5}}
    with pytest.raises(UserError, match=r"optimizer\.momentum: momentum is a key of sgd and"):
        files.complete(tree)


def test_highest_precision_computes_in_float32():
    assert files.override(DEFAULTS, precision="highest").model.dtype == "float32"
    chosen = files.override(DEFAULTS, **{"precision": "highest", "model.dtype": "bfloat16"})
    assert chosen.model.dtype == "bfloat16"


def test_a_config_survives_json():
    config = files.override(DEFAULTS, **{"data.label_map": {7: 0, 8: 255}})
    tree = json.loads(json.dumps(files.to_tree(config)))
    assert files.validate(files.complete(tree)) == config


def test_every_setting_is_documented():
    for setting in describe.settings(DEFAULTS):
        assert setting.doc, setting.key
        assert setting.is_section or setting.allowed, setting.key


def test_ranges_in_words():
    hints = {f.name: f.type for f in dataclasses.fields(schema.Mesh)}
    assert set(hints) == {"data", "fsdp", "spatial"}
    assert ranges.describe(schema.Size) == "a pair, each a whole number, at least 1"
    assert ranges.describe(schema.Probability) == "a finite number, at least 0, at most 1"
    assert ranges.describe(float | None) == "a finite number"
