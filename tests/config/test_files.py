"""Configs are found by path and by name, from any folder; what is wrong in one is told."""

import json
import sys

import pytest
from conftest import REPOSITORY

from nonlocal_jax.config import files, versions
from nonlocal_jax.errors import UserError

CONFIG = """
from ml_collections import ConfigDict

def get_config(width="32"):
    config = ConfigDict()
    config.model = ConfigDict({"decode_head": {"channels": int(width)}})
    config.total_steps = 7
    return config
"""


def test_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ade20k_r50_80k", "configs/ade20k_r50_80k.py", "ade20k_r50_80k.py"):
        assert files.load(name).published.sha256 == "5ae0aa33"
    with pytest.raises(UserError, match=r"no config ade20k_r50_80\..*mean ade20k_r50_80k\?"):
        files.load("ade20k_r50_80")
    with pytest.raises(UserError, match="no config /nope/demo2"):
        files.load("/nope/demo2.py")


def test_a_config_of_ones_own_states_what_differs_and_takes_an_argument(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    config = files.load(path)
    assert (config.total_steps, config.model.decode_head.channels) == (7, 32)
    assert config.batch_size == 8  # the default
    assert files.load(f"{path}:64").model.decode_head.channels == 64


def test_it_may_import_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "beside_a_config.py").write_text("STEPS = 9\n")
    (tmp_path / "mine.py").write_text(CONFIG.replace("7", "__import__('beside_a_config').STEPS"))
    before = list(sys.path)
    assert files.load(tmp_path / "mine.py").total_steps == 9
    assert sys.path == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", r"is no config: it has no get_config\(\)"),
        ("def get_config():\n    return {}", "must return a ConfigDict"),
        ("def get_config():\n    return 1 / 0", r"mine\.py, line 2: ZeroDivisionError"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(", "SyntaxError"),
        (
            CONFIG.replace("total_steps", "total_step"),
            r"no key total_step\. Did you mean total_ste",
        ),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        files.load(path)


def test_the_config_json_of_a_run_is_a_config(tmp_path):
    config = files.load("demo", total_steps=3)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(versions.with_format(files.to_tree(config))))
    assert files.load(path) == config


def test_the_common_module_is_no_row():
    assert "common" not in files.names() and "__init__" not in files.names()
    assert (REPOSITORY / "configs" / "demo.py").is_file() and "demo" in files.names()
