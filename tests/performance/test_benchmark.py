"""The benchmark's figures are of the right programs; how fast they are is nobody's test."""

import json
import tempfile

import evaluations
import pytest
from networks import tiny_config

from nonlocal_jax import benchmark
from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.backbones import resnet
from nonlocal_jax.models.network import init_variables
from nonlocal_jax.performance import chips, measure, saving


def small():
    config = tiny_config(**{"backbone.depth": 18, "num_classes": 5})
    values = {"batch_size": 8, "data.crop_size": (32, 40), "eval.scale": (64, 48)}
    return files.override(config, **values)


def test_inference_and_training_in_one_table():
    measured = [
        measure.inference("tiny_row", small(), 2, runs=1),
        measure.training("tiny_row", small(), runs=1),
    ]
    assert [m.images for m in measured] == [2, 8]
    assert measured[0].size == (48, 64) and measured[1].size == (32, 40)
    # Training is forward, and twice as much again backward; it alone has the auxiliary head.
    per_pixel = [m.tflop / (m.images * m.size[0] * m.size[1]) for m in measured]
    assert 2.5 < per_pixel[1] / per_pixel[0] < 4.5
    lines = measure.table(measured, {"tiny_row": small().published}).splitlines()
    assert len(lines) == 4 and "inference" in lines[2] and "training" in lines[3]
    assert small().published.memory_gb == 9.1 and "| 9.1 |" in lines[3]


def test_a_save_among_steps_is_measured_in_a_line_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(resnet.BLOCKS_PER_STAGE, 18, (1, 1, 1, 1))
    found = saving.saving("tiny_row", small(), steps=3, turns=1)
    assert list(tmp_path.iterdir()) == []
    assert 0 < found.held < found.with_save and found.plain > 0 and found.alone > 0
    variables = init_variables(small().model, 0).values()
    assert sum(v.nbytes for v in variables) < found.megabytes * 1e6  # momenta, too
    assert "save() holds the loop for" in found.line() and " 3 steps take" in found.line()


def test_the_numbers_of_the_input_are_kept(tmp_path, capsys):
    path = tmp_path / "numbers" / "input.json"
    flags = ["--config=demo", "--what=input", "--samples=4"]
    assert benchmark.run([*flags, f"--json={path}"]) == 0
    (numbers,) = json.loads(path.read_text())
    assert numbers["config"] == "demo" and numbers["per_second"] > 0
    assert f"{numbers['per_second']:.0f} images/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "path", "message"),
    [
        ("evaluation", "a.json", "--json is for the numbers of all but evaluation"),
        ("input", ".", "can't be written: it is a folder"),
        ("training", "/proc/no/a.json", "/proc/no cannot be written"),
    ],
)
def test_a_wrong_file_of_numbers_is_told_before_anything_is_measured(
    what, path, message, tmp_path, capsys
):
    flags = ["--config=demo", f"--what={what}", f"--json={tmp_path / path}"]
    assert benchmark.run(flags) == 2
    said = capsys.readouterr()
    assert message in said.err and "compiling" not in said.out + said.err


def test_all_rows_are_measured_beside_what_was_published():
    rows = benchmark.rows()
    assert len(rows) == 16 and all(row.published.url for row in rows.values())
    # Published for one of four GPUs; here are eight devices.
    assert rows["ade20k_r50_80k"].batch_size == 4 * 8
    assert rows["cityscapes_r101_769x769_80k"].batch_size == 2 * 8
    others = benchmark.rows(["fcn"])
    assert len(others) == 16 and others["fcn:ade20k_r50_80k"].published.miou == 35.94
    with pytest.raises(UserError, match=r"--methods has gnc; it may be some of nonlocal, ann"):
        benchmark.rows(["gnc", "fcn"])


def test_evaluation_reads_and_scores_so_many_images_of_the_configs_own(tmp_path):
    evaluations.write_folder(tmp_path, evaluations.mixed_examples(5))
    report = measure.evaluation_report("tiny_row", evaluations.small(tmp_path), 3)
    assert "3 images at" in report and "of compiling" in report


@pytest.mark.parametrize(
    ("kind", "peak"), [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("cpu", None)]
)
def test_the_share_of_a_known_device_s_peak(kind, peak):
    assert chips.peak(kind) == peak
