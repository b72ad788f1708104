"""Pages about runs: they tell the numbers of the log, need nothing else, and bear any folder."""

import json
import re
import shlex

import numpy as np
import pytest
from histories import NAMES, Page, miou, scores, write_run

from nonlocal_jax.report import run
from nonlocal_jax.reporting import history
from nonlocal_jax.reporting.report import charts, comparison, facts, html, run_page


def report(*folders, output=None, pictures=0):
    where = [] if output is None else [f"--output={output}"]
    return run([*map(str, folders), *where, f"--pictures={pictures}"])


def checked(path):
    """The page of a file, which loads nothing, and whose pictures are all described."""
    page = Page(path)
    assert not page.loads and not page.undescribed and "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert "default-src 'none'" in page.text and "prefers-color-scheme:dark" in page.text
    return page


def column(rows, title):
    place = rows[0].index(title)
    return {row[0]: row[place] for row in rows[1:]}


def test_a_page_tells_the_numbers_of_the_log(tmp_path):
    folder = write_run(tmp_path / "run")
    assert report(folder) == 0
    page = checked(folder / "report.html")
    expected = ["run", "Summary", "Training", "Time", "Evaluations", "IoU of each class"]
    assert page.headings[:6] == expected
    assert {"Confusion matrix", "Config", "Environment", "Log"} <= set(page.headings)
    summary = column(page.all_tables[0], "value")
    best = max((20, 40), key=miou)
    assert summary["best mIoU, %"] == f"{100 * miou(best):.2f}" and summary["at step"] == str(best)
    assert summary["steps"] == "40 of 40" and summary["images/s, median"] == "4"
    assert summary["first entry of the log"] == "2023-11-14 22:13:30 UTC"
    evaluations = column(page.tables["Scores in percent"], "mIoU")
    assert evaluations == {str(step): f"{100 * miou(step):.2f}" for step in (20, 40)}
    classes = column(page.tables[f"Scores in percent, step {best}, the best"], "IoU")
    assert classes == {
        name: "–" if value is None else f"{100 * value:.2f}" for name, value in scores(best).items()
    }
    matrix = page.tables[f"Percent of the pixels of each label (row), step {best}, the best"]
    record = json.loads((folder / "evaluations" / f"{best}.json").read_text())["confusion"]
    for row, counts in zip(matrix[1:], record, strict=True):
        assert row[1:] == [f"{100 * count / sum(counts):.0f}" for count in counts]
    for chart in (
        "Training loss (logarithmic scale)",
        "Learning rate",
        "Images per second",
        "IoU over time",
    ):
        assert f"<figcaption>{chart}" in page.text
    time = [
        rows[1:] for rows in page.all_tables if rows[0] == ["time of this run", "seconds", "share"]
    ]
    assert time == [[["training steps", "30.0", "75.0%"], ["saving", "10.0", "25.0%"]]]
    assert page.tags.isdisjoint({"b", "i"})  # names of classes and images are text
    assert "0.125" not in page.text and "12.50" in page.text  # the worst image's accuracy


def test_a_comparison_tells_what_differs(tmp_path):
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", optimizer={"learning_rate": 0.5}, until=20)
    assert report(one, other, output=tmp_path / "pages") == 0
    page = checked(tmp_path / "pages" / "index.html")
    assert page.links == ["one.html", "other.html"]
    assert all((tmp_path / "pages" / link).is_file() for link in page.links)
    differing = [rows[1:] for rows in page.all_tables if rows[0] == ["key", "one", "other"]]
    assert differing == [[["optimizer.learning_rate", "0.01", "0.5"]]]
    values = page.tables["In percent, in the best evaluation of each run"]
    best = scores(max((20, 40), key=miou))
    for name, row in zip(NAMES, values[1:], strict=True):
        first, second = best[name], scores(20)[name]
        if first is None:
            assert row == [name, "–", "–", "–"]
        else:
            assert row[3] == f"{100 * (second - first):+.2f}"
    assert values[0][3] == "second - first" and comparison.OTHER_TASKS not in page.text
    assert "Versions, devices and sources are the same." in page.text
    checked(tmp_path / "pages" / "one.html")


def test_runs_of_different_tasks_are_told_apart(tmp_path):
    image = write_run(tmp_path / "image", images_alone=1)
    backbone = {"name": "video_resnet", "depth": 50, "kind": "c2d", "non_local": True}
    video = write_run(tmp_path / "video", video=True, model={"backbone": backbone})
    assert report(image, video, output=tmp_path / "pages") == 0
    page = checked(tmp_path / "pages" / "index.html")
    assert html.paragraph(comparison.OTHER_TASKS) in page.text
    assert column(page.all_tables[0], "video")["network"] == (
        "video_resnet 50 (C2D with non-local blocks)"
    )
    differing = [rows[1:] for rows in page.all_tables if rows[0] == ["key", "image", "video"]]
    assert differing == [[["task", "segmentation", "video"]]]


def test_a_command_can_be_pasted(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "environment.json").write_text(json.dumps({"command": ["train.py", "--a=(1, 2)"]}))
    shown = facts.flat_environment(history.read(folder))
    assert shlex.split(shown["command"]) == ["train.py", "--a=(1, 2)"]


def test_only_a_wide_range_has_a_logarithmic_axis_and_steps_are_whole():
    near, far = (
        charts.lines("Loss", [charts.Series("loss", (20, 40), (start, 0.3))], log=True)
        for start in (1.2, 30)
    )
    assert "logarithmic" not in near and "<figcaption>Loss (logarithmic scale)<" in far
    assert {"0.4", "0.6", "0.8", "1.0"} <= set(re.findall(r">([\d.]+)</text>", near))
    assert {"0.5", "1", "2", "5", "10", "20"} <= set(re.findall(r">([\d.]+)</text>", far))
    assert ">25</text>" in near and "22.5" not in near


def test_flat_pictures_are_in_fewer_columns():
    assert run_page._is_wide(np.zeros((64, 512, 3), np.uint8))
    assert not run_page._is_wide(np.zeros((360, 480, 3), np.uint8))
    assert 'class="panels wide"' in html.panels([], wide=True)


def test_many_classes_are_a_picture_and_a_choice_of_lines(tmp_path):
    names = [f"class {number}" for number in range(60)]
    folder = write_run(tmp_path / "run", names=names)
    assert report(folder) == 0
    page = checked(folder / "report.html")
    assert "img" in page.tags and "the best and the worst classes" in page.text
    assert page.text.count('<li><svg viewBox="0 0 28 8"') <= 12 + 4


def test_one_evaluation_is_a_table_and_no_chart(tmp_path):
    folder = write_run(tmp_path / "run", until=20)
    assert report(folder) == 0
    page = checked(folder / "report.html")
    assert list(column(page.tables["Scores in percent"], "mIoU")) == ["20"]
    assert "<figcaption>Scores" not in page.text and "IoU over time" not in page.text


def test_a_run_of_videos_has_top_1(tmp_path):
    folder = write_run(tmp_path / "run", video=True)
    assert report(folder) == 0
    page = checked(folder / "report.html")
    assert column(page.tables["Scores in percent"], "top-1") == {"20": "25.00", "40": "25.00"}
    assert "top-1 of each class" in page.headings and "Worst videos" in page.headings
    assert "mIoU" not in page.text


def break_log(folder):
    (folder / "metrics.jsonl").write_bytes(
        b'{"step": 10, "loss": "x", "learning_rate": []}\n\xff\n{"step": 1e999}\n'
    )


def cut_log(folder):
    log = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(log[:-20])


def break_records(folder):
    (folder / "evaluations" / "40.json").write_text('{"confusion": [[1, 2], [3]], "classes": 7}')
    (folder / "evaluations" / "20.json").write_text("{")


def break_json(folder):
    for name in ("config.json", "environment.json"):
        (folder / name).write_bytes(b"\xff{")


def remove_log(folder):
    (folder / "metrics.jsonl").unlink()


def only_a_config(folder):
    for path in folder.rglob("*.json*"):
        if path.name != "config.json":
            path.unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (break_log, "2 of 3 lines of metrics.jsonl"),
        (cut_log, "Scores in percent"),
        (break_records, "can&#x27;t be read"),
        (break_json, "config.json"),
        (remove_log, "There is no log"),
        (only_a_config, "There is no evaluation yet."),
    ],
)
def test_what_is_damaged_or_missing_is_left_out(tmp_path, change, told):
    folder = write_run(tmp_path / "run")
    change(folder)
    assert report(folder) == 0
    page = checked(folder / "report.html")
    assert told in page.text and "Traceback" not in page.text


def test_a_run_that_is_still_training_or_of_an_old_version_has_a_page(tmp_path):
    assert report(write_run(tmp_path / "new", until=30)) == 0
    assert "at step 30 of 40" in checked(tmp_path / "new" / "report.html").text
    assert report(write_run(tmp_path / "old", old=True)) == 0
    page = checked(tmp_path / "old" / "report.html")
    assert column(page.tables["Scores in percent"], "mIoU")["40"] == f"{100 * miou(40):.2f}"
    assert "IoU over time" not in page.text and "Confusion matrix" not in page.headings


def test_without_a_checkpoint_the_page_says_why_there_are_no_pictures(tmp_path):
    folder = write_run(tmp_path / "run")
    assert report(folder, pictures=2) == 0
    assert "No image is drawn" in checked(folder / "report.html").text


def test_mistakes_are_one_sentence_before_anything_is_written(tmp_path, capsys):
    folder = write_run(tmp_path / "runs" / "run")
    (tmp_path / "empty").mkdir()
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own page</p>")
    cases = {
        (): "Which run?",
        (tmp_path / "none",): "There is no folder",
        (tmp_path / "empty",): "holds no run",
        (tmp_path / "runs",): f"Did you mean {folder}?",
        (folder, tmp_path / "empty"): "holds no run",
        (folder, f"--output={mine}"): "is no report: choose another --output",
        (folder, f"--output={mine}/below"): "cannot be written",
    }
    for words, told in cases.items():
        assert run([*map(str, words), "--pictures=0"]) == 2
        assert told in capsys.readouterr().err
    assert mine.read_text() == "<p>my own page</p>" and not (folder / "report.html").exists()


def test_output_is_a_file_or_a_folder_and_a_report_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")
    for _ in range(2):
        assert run([str(one), "--output", "page.html", "--pictures", "0"]) == 0
    assert report(one, other) == 0
    assert report(one, other, one, output="both.html") == 0
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html"))
    assert written == [
        *("both-a__run.html", "both-b__run.html", "both.html", "page.html"),
        *("report/a__run.html", "report/b__run.html", "report/index.html"),
    ]
    assert checked(tmp_path / "both.html").links == ["both-a__run.html", "both-b__run.html"]


def test_the_history_is_the_runs_own(tmp_path):
    found = history.read(write_run(tmp_path / "run"))
    assert [entry["step"] for entry in found.steps] == [10, 20, 30, 40]
    assert [entry["step"] for entry in found.evaluations] == [20, 40]
    assert found.best["step"] == max((20, 40), key=miou) and found.last_step == 40
    assert found.setting("optimizer.learning_rate") == 0.01 and found.setting("no.such") is None
    assert sorted(found.records) == [20, 40] and not found.unreadable
