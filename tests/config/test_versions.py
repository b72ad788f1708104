"""Configs that other versions wrote."""

import json

import pytest

from nonlocal_jax.config import files, versions
from nonlocal_jax.errors import UserError


def write(folder, content):
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_a_config_of_format_1_is_migrated(tmp_path):
    tree = files.to_tree(files.load("demo"))
    schedule = tree["optimizer"].pop("schedule")
    del tree["optimizer"]["name"]
    tree["optimizer"] |= {"power": 0.5, "min_learning_rate": schedule["min_learning_rate"]}
    tree["model"]["decode_head"]["num_convs"] = 2
    config = files.load(write(tmp_path, tree))
    assert config.optimizer.schedule.power == 0.5
    assert config.model == files.load("demo").model


def test_a_new_key_takes_its_default(tmp_path):
    tree = files.to_tree(files.load("demo", keep_checkpoints=5))
    del tree["keep_checkpoints"], tree["mesh"]
    config = files.load(write(tmp_path, versions.with_format(tree)))
    assert config == files.load("demo")


def test_a_key_of_a_newer_version_is_refused_by_name(tmp_path):
    tree = files.to_tree(files.load("demo"))
    tree["model"]["sparkle"] = 1
    with pytest.raises(UserError, match=r"no key model\.sparkle"):
        files.load(write(tmp_path, versions.with_format(tree)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 99, "config": {}}, "has format 99, and this version .* update"),
        ({"format": 2}, "can't be read as a config"),
        ([], "can't be read as a config"),
    ],
)
def test_what_can_not_be_read_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        files.load(write(tmp_path, content))
