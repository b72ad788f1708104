"""Whose folder a run's folder is, and when it becomes that."""

import json

import pytest
from runs import tiny
from saved import contents, train

from nonlocal_jax.checkpoints import folder
from nonlocal_jax.checkpoints.metadata import Metadata
from nonlocal_jax.config import files, versions
from nonlocal_jax.errors import UserError
from nonlocal_jax.training import workdir

TRACES = {
    "a log line": lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n'),
    "a checkpoint": lambda run: train(run, [3]),
}
NO_TRACES = {
    "nothing": lambda run: None,
    "an empty log": lambda run: (run / "metrics.jsonl").touch(),
    "no checkpoint yet": lambda run: (run / "checkpoints").mkdir(),
    "an unfinished checkpoint": lambda run: (run / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir(
        parents=True
    ),
}


def test_a_folder_says_what_it_was_made_with(tmp_path):
    workdir.claim(tmp_path / "run", tiny(seed=5), {"host": "x"})
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["format"] == versions.FORMAT
    assert files.load(tmp_path / "run" / "config.json") == tiny(seed=5)
    assert json.loads((tmp_path / "run" / "environment.json").read_text()) == {"host": "x"}


@pytest.mark.parametrize("trace", NO_TRACES)
def test_a_start_that_failed_claims_nothing(tmp_path, trace):
    workdir.claim(tmp_path, tiny(), {})
    NO_TRACES[trace](tmp_path)
    other = tiny(init_skip_classifier=True, seed=3)
    workdir.claim(tmp_path, other, {})
    assert files.load(tmp_path / "config.json") == other


@pytest.mark.parametrize("trace", TRACES)
def test_a_run_that_has_begun_keeps_its_folder(tmp_path, trace):
    workdir.claim(tmp_path, tiny(), {})
    TRACES[trace](tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"of another config:\n  config\.seed was 0, is 3\n"):
        workdir.claim(tmp_path, tiny(seed=3), {})
    assert contents(tmp_path) == before
    workdir.claim(tmp_path, tiny(data_dir="elsewhere", log_every=7, **{"mesh.spatial": 2}), {})


def test_of_another_module_only_its_name_is_told(tmp_path):
    workdir.claim(tmp_path, tiny(**{"loss.name": "sum", "optimizer.momentum": 0.8}), {})
    TRACES["a log line"](tmp_path)
    other = {"optimizer.name": "adamw", "optimizer.learning_rate": 0.125}
    with pytest.raises(UserError) as caught:
        workdir.claim(tmp_path, tiny(**other), {})
    assert str(caught.value).splitlines()[1:-1] == [
        "  config.loss.name was sum, is cross_entropy",
        f"  config.optimizer.learning_rate was {tiny().optimizer.learning_rate}, is 0.125",
        "  config.optimizer.name was sgd, is adamw",
    ]


def test_a_longer_run_is_told_how(tmp_path):
    workdir.claim(tmp_path, tiny(), {})
    TRACES["a log line"](tmp_path)
    with pytest.raises(UserError, match=rf"(?s)total_steps was .*--config\.init_from={tmp_path}"):
        workdir.claim(tmp_path, tiny(total_steps=7), {})
    with pytest.raises(UserError, match="Choose another --workdir, or remove"):
        workdir.claim(tmp_path, tiny(total_steps=7, seed=3), {})


def test_a_key_that_is_gone_is_named(tmp_path):
    tree = versions.with_format(files.to_tree(tiny()))
    tree["config"]["optimizer"]["lookahead"] = True
    (tmp_path / "config.json").write_text(json.dumps(tree))
    TRACES["a log line"](tmp_path)
    with pytest.raises(UserError, match=r"config\.json .*no key optimizer\.lookahead"):
        workdir.claim(tmp_path, tiny(), {})


def test_a_checkpoint_belongs_to_the_config_that_it_names(tmp_path):
    train(tmp_path, [3], metadata=Metadata(kind="training", config=tiny(seed=5)))
    step = tmp_path / "checkpoints" / "3"
    workdir.check_checkpoint(step, folder.read_metadata(step), tiny(seed=5, log_every=1))
    with pytest.raises(UserError, match=r"3 is a checkpoint of another config:\n.*seed was 5"):
        workdir.check_checkpoint(step, folder.read_metadata(step), tiny())
