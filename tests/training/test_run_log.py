"""The log of a run, what it keeps of evaluations, and writers."""

import importlib.util
import json
import math
import sys
import time
import types

import pytest

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.training import loop
from nonlocal_jax.training.run_log import RunLog
from nonlocal_jax.training.writers import mlflow, writer
from nonlocal_jax.training.writers.writer import Place


class Recorder(writer.Writer):
    """Keeps what it is told; raises at one step."""

    title = "the recorder"

    def __init__(self, broken_at=None):
        self.entries, self.outcomes, self._broken_at = [], [], broken_at

    def write(self, step, scalars):
        if step == self._broken_at:
            raise ConnectionError("no answer")
        self.entries.append((step, dict(scalars)))

    def close(self, outcome):
        self.outcomes.append(outcome)


def own_writer(monkeypatch, name, build):
    """The writer `own.NAME`."""
    module = types.ModuleType(f"own.{name}")
    module.check, module.build = lambda: None, build
    monkeypatch.setitem(sys.modules, "own", types.ModuleType("own"))
    monkeypatch.setitem(sys.modules, f"own.{name}", module)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_entries_have_the_time_and_null_for_what_is_not_known(tmp_path):
    before = time.time()
    recorder = Recorder()
    with RunLog(tmp_path) as log:
        log.writers.append(recorder)
        log.write(1, {"loss": 0.5, "learning_rate": 0.1})
        log.write(1, {"miou": math.nan, "iou": {"road": 0.25, "sky": math.nan}})
    first, second = lines(tmp_path)
    assert before - 0.001 <= first.pop("time") <= second.pop("time") <= time.time() + 0.001
    assert first == {"step": 1, "loss": 0.5, "learning_rate": 0.1}
    assert second == {"step": 1, "miou": None, "iou": {"road": 0.25, "sky": None}}
    assert recorder.entries == [(1, {"loss": 0.5, "learning_rate": 0.1}), (1, {"iou/road": 0.25})]
    assert recorder.outcomes == ["finished"]


def test_a_run_that_resumes_forgets_what_came_after(tmp_path):
    def kept():
        return sorted(path.name for path in (tmp_path / "evaluations").iterdir())

    with RunLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write(step, {"loss": 1.0, "learning_rate": 0.1})
            log.write(step, {"miou": 0.5})
            log.keep(step, {"confusion": [[step]]})
    RunLog(tmp_path, 20).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 10, 20, 20]
    assert kept() == ["10.json", "20.json"]
    assert json.loads((tmp_path / "evaluations" / "20.json").read_text())["confusion"] == [[20]]
    RunLog(tmp_path, 20, evaluated=False).close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 10, 20]
    assert kept() == ["10.json"]


def test_a_writer_that_fails_is_told_and_the_run_goes_on(tmp_path, capsys):
    broken, whole = Recorder(broken_at=2), Recorder()
    with pytest.raises(SystemExit), RunLog(tmp_path) as log:
        log.writers += [broken, whole]
        for step in (1, 2, 3):
            log.write(step, {"loss": 1.0})
        sys.exit(75)
    assert [step for step, _ in broken.entries] == [1] and broken.outcomes == ["failed"]
    assert [step for step, _ in whole.entries] == [1, 2, 3] and whole.outcomes == ["stopped"]
    assert capsys.readouterr().out.count("the recorder takes no more entries: no answer") == 1
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"pip install 'nonlocal_jax\[{name}\]'"):
        writer.check(["auto", name])
    writer.check(["auto"])


def fake_wandb(started):
    """A module with what the writer calls of wandb."""

    class Run:
        def __init__(self, **given):
            self.id = given["id"] or "new1"
            self.given, self.log_, self.ended = given, [], None
            started.append(self)

        def define_metric(self, name, step_metric=None):
            pass

        def log(self, entry):
            self.log_.append(entry)

        def mark_preempting(self):
            self.ended = "preempting"

        def finish(self, exit_code):
            self.ended = self.ended or exit_code

    module = types.ModuleType("wandb")
    module.init, module.Settings = Run, lambda **given: given
    return module


def test_a_resumed_run_goes_on_as_the_same_run_of_weights_and_biases(tmp_path, monkeypatch):
    started = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(started))
    for start, outcome in ((0, "stopped"), (20, "finished"), (0, "failed")):
        (made,) = writer.build(["wandb"], Place(tmp_path, {"seed": 3}, start))
        made.write(start + 1, {"loss": 1.0})
        made.close(outcome)
    assert [run.given["id"] for run in started] == [None, "new1", None]  # from step 0: another run
    assert [run.ended for run in started] == ["preempting", 0, 1]
    assert started[1].log_ == [{"step": 21, "loss": 1.0}] and started[0].given["resume"] == "allow"
    assert started[0].given["config"] == {"seed": 3}


def test_what_a_server_says_is_one_sentence_and_earlier_writers_are_ended(tmp_path, monkeypatch):
    def refuse(**_):
        raise RuntimeError("no key.")

    module, closed = types.ModuleType("wandb"), []
    module.init, module.Settings = refuse, lambda **given: given
    monkeypatch.setitem(sys.modules, "wandb", module)
    recorder = Recorder()
    own_writer(monkeypatch, "recorder", lambda place: recorder)
    with pytest.raises(UserError, match=r"can't begin a run: no key\. Log in"):
        writer.build(["own.recorder", "wandb"], Place(tmp_path, {}, 0))
    assert recorder.outcomes == ["failed"] and not closed


def test_whatever_a_writer_raises_those_before_it_are_ended(tmp_path, monkeypatch):
    class Unreachable(Recorder):
        def close(self, outcome):
            raise ConnectionError("no answer")

    def full(place):
        raise OSError("no space")

    recorder = Recorder()
    own_writer(monkeypatch, "unreachable", lambda place: Unreachable())
    own_writer(monkeypatch, "recorder", lambda place: recorder)
    own_writer(monkeypatch, "full", full)
    with pytest.raises(OSError, match="no space"):
        writer.build(["own.unreachable", "own.recorder", "own.full"], Place(tmp_path, {}, 0))
    assert recorder.outcomes == ["failed"]


def test_no_writer_begins_if_the_log_cannot_be_opened(tmp_path, monkeypatch):
    begun = []
    own_writer(monkeypatch, "recorder", begun.append)
    (tmp_path / "metrics.jsonl").mkdir()
    config = files.load("demo", log_to=("own.recorder",))
    with pytest.raises(UserError, match=r"Cannot write .*metrics\.jsonl"):
        loop._open_log(config, tmp_path, loop.Start(0, False, None)).__enter__()
    assert not begun


def test_names_are_those_that_mlflow_takes():
    assert mlflow.allowed("iou/road 2") == "iou/road 2"
    assert mlflow.allowed("iou/</script><b>") == "iou/_/script__b_"
    assert mlflow.allowed("iou/../x") == "iou/_x"


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="the extra `mlflow` is missing"
)
def test_a_resumed_run_goes_on_as_the_same_run_of_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    import mlflow as library

    for start in (0, 20):
        (made,) = writer.build(["mlflow"], Place(tmp_path, {"seed": 3}, start))
        made.write(start + 10, {"iou/a?b": 0.25, "loss": 1.0})
        made.close("finished")
    client = library.MlflowClient()
    number = client.get_experiment_by_name("nonlocal_jax").experiment_id
    (found,) = client.search_runs([number])
    history = client.get_metric_history(found.info.run_id, "iou/a_b")
    assert [(m.step, m.value) for m in history] == [(10, 0.25), (30, 0.25)]
    assert found.data.params == {"seed": "3"} and found.info.status == "FINISHED"
