"""The main job from end to end: a real config, shrunk; interrupted, resumed, and refused."""

import json
import os
import signal
import subprocess

import numpy as np
import pytest
from histories import Page
from runs import ONE_DEVICE, REPOSITORY, command, run, saved_model, tiny

from nonlocal_jax.checkpoints import model
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.network import build_network
from nonlocal_jax.report import run as report
from nonlocal_jax.training import starting_weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, out, err = run(workdir)
    assert code == 0, err
    return workdir, out


def test_a_run_says_what_it_does_and_writes_what_it_promises(finished):
    workdir, out = finished
    for expected in ("Compiling the train step", "step 8/8", "images/s", "ETA", "lr ", "mIoU"):
        assert expected in out
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert any("miou" in line for line in lines)
    shares = [line["goodput"] for line in lines if "loss" in line]
    assert all(0 < share < 1 for share in shares)
    seconds = json.loads((workdir / "goodput.json").read_text())["seconds"]
    # The last evaluation comes after the last of these lines, and adds no steps.
    assert seconds["evaluating"] > 0 and seconds["down"] == seconds["repeated"] == 0
    assert 0 < seconds["steps"] / sum(seconds.values()) <= shares[-1] + 1e-9
    assert "compiling the train step" in out.partition("time of this run")[2]
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["total_steps"] == 8
    assert "jax" in json.loads((workdir / "environment.json").read_text())["packages"]
    assert (workdir / "checkpoints" / "8" / "model").is_dir()


def test_a_run_has_a_report_with_its_worst_images(finished, tmp_path):
    workdir, _ = finished
    record = json.loads((workdir / "evaluations" / "8.json").read_text())
    assert report([str(workdir), f"--output={tmp_path}/page.html", "--pictures=2"]) == 0
    page = Page(tmp_path / "page.html")
    worst = [one["name"] for one in record["worst"]]
    shown = [heading.partition(":")[0] for heading in page.headings if ": " in heading]
    assert shown == worst[:2] and len(worst) == 8
    for one in record["worst"][:2]:
        assert f"{one['name']}: {100 * one['accuracy']:.1f}% of its pixels right" in page.headings
    assert page.text.count("<img") == 2 * 5 + 2 + 1  # and attention with its scale
    assert not page.loads and not page.undescribed
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert list(log[-1]["iou"]) == [one["name"] for one in record["classes"]]
    stamps = [line["time"] for line in log]
    assert stamps == sorted(stamps) and 0 < stamps[-1] - stamps[0] < 3600


def logged_steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_killed_at_any_moment_it_goes_on_to_the_same_end(finished, tmp_path):
    whole, _ = finished
    process = subprocess.Popen(
        command(tmp_path / "run"),
        cwd=REPOSITORY,
        env=ONE_DEVICE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step 8/8"):  # step 4 is on disk before step 6 is saved
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    code, out, err = run(tmp_path / "run")
    assert code == 0, err
    assert "Going on from step" in out
    assert logged_steps(tmp_path / "run") == logged_steps(whole)
    expected, _ = model.load_model(whole)
    resumed, _ = model.load_model(tmp_path / "run")
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
def test_told_to_stop_it_saves_and_says_so_by_its_exit_code(finished, tmp_path, how):
    whole, _ = finished
    process = subprocess.Popen(
        command(tmp_path / "run", "--config.checkpoint_every=100"),
        cwd=REPOSITORY,
        env=ONE_DEVICE,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 2/8"):
            process.send_signal(how)
    assert process.wait() == 75
    assert any(line.startswith("Told to stop") for line in lines)
    code, out, err = run(tmp_path / "run")
    assert code == 0, err
    assert "Going on from step" in out
    expected, _ = model.load_model(whole)
    resumed, _ = model.load_model(tmp_path / "run")
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_a_workdir_of_another_config_is_refused_and_left_alone(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime for path in workdir.rglob("*") if path.is_file()}
    code, _, err = run(workdir, "--config.optimizer.learning_rate=0.5", "--config.seed=3")
    assert code == 2
    assert "config.optimizer.learning_rate was" in err and "config.seed was 0, is 3" in err
    after = {path: path.stat().st_mtime for path in workdir.rglob("*") if path.is_file()}
    assert before == after


def test_a_workdir_that_cannot_be_written_is_one_message(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    code, _, err = run(file)
    assert code == 2 and "--workdir" in err and "Traceback" not in err


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    code, _, err = run(tmp_path / "run", "--config.optimizer.learning_rate=1e12")
    assert code == 2
    assert "not finite" in err and "step" in err
    for step in (tmp_path / "run" / "checkpoints").glob("[0-9]*"):
        variables, _ = model.load_model(step)
        assert all(np.isfinite(value).all() for value in variables.values())


def test_a_run_starts_from_an_imported_backbone(tmp_path):
    config = tiny(init_from=str(tmp_path / "backbone"))
    saved = saved_model(tmp_path / "backbone", config, "backbone", "backbone/")
    network = build_network(config.model)
    variables = starting_weights.initial_variables(config, network)
    assert variables.keys() == network.shapes.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(variables[name], value)
    assert not np.array_equal(variables["decode_head/conv_cat/conv/kernel"], np.zeros(1))


def test_another_number_of_classes_is_refused_unless_told_to_skip(tmp_path):
    config = tiny(init_from=str(tmp_path / "model"))
    saved = saved_model(tmp_path / "model", config)
    config = files.override(config, **{"model.num_classes": 5})
    network = build_network(config.model)
    with pytest.raises(UserError, match="init_skip_classifier"):
        starting_weights.initial_variables(config, network)
    config = files.override(config, init_skip_classifier=True)
    variables = starting_weights.initial_variables(config, network)
    assert variables["decode_head/classifier/bias"].shape == (5,)
    np.testing.assert_array_equal(
        variables["decode_head/conv_cat/conv/kernel"], saved["decode_head/conv_cat/conv/kernel"]
    )


def test_a_checkpoint_of_another_network_is_refused_with_all_differences(tmp_path):
    saved_model(tmp_path / "model", tiny())
    config = tiny(init_from=str(tmp_path / "model"))
    config = files.override(config, **{"model.backbone.depth": 34})
    with pytest.raises(UserError, match=r"another network[\s\S]*missing: backbone/stage1/2"):
        starting_weights.initial_variables(config, build_network(config.model))


def test_a_rows_file_can_be_loaded_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = files.load(REPOSITORY / "configs" / "voc12aug_r50_20k.py")
    assert config.model.num_classes == 21
