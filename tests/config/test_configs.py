"""The sixteen rows, and what a person sees who mistypes one of their values."""

import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from nonlocal_jax.config import command_line
from nonlocal_jax.errors import UserError
from nonlocal_jax.models.network import build_network

ROWS = sorted(path.stem for path in (REPOSITORY / "configs").glob("*_r[0-9]*.py"))
# From the reference's README: mIoU, mIoU with ms+flip, first digits of the file's SHA-256.
PUBLISHED = {
    "cityscapes_r50_512x1024_40k": (78.24, None, "c75e81e3"),
    "cityscapes_r101_512x1024_40k": (78.66, None, "d63729fa"),
    "cityscapes_r50_769x769_40k": (78.33, 79.92, "82ef6749"),
    "cityscapes_r101_769x769_40k": (78.57, 80.29, "8fe9a9dc"),
    "cityscapes_r50_512x1024_80k": (78.01, None, "d6839fae"),
    "cityscapes_r101_512x1024_80k": (78.93, None, "32700183"),
    "cityscapes_r50_769x769_80k": (79.05, 80.68, "1f9792f6"),
    "cityscapes_r101_769x769_80k": (79.40, 80.85, "0e1fa4f9"),
    "ade20k_r50_80k": (40.75, 42.05, "5ae0aa33"),
    "ade20k_r101_80k": (42.90, 44.27, "24105919"),
    "ade20k_r50_160k": (42.03, 43.04, "baef45e3"),
    "ade20k_r101_160k": (44.63, 45.79, "7881aa1a"),
    "voc12aug_r50_20k": (76.20, 77.12, "07f2a57c"),
    "voc12aug_r101_20k": (78.15, 78.86, "948c68ab"),
    "voc12aug_r50_40k": (76.65, 77.47, "0139d4a9"),
    "voc12aug_r101_40k": (78.27, 79.12, "7e5ff470"),
}
SETTINGS = {
    "cityscapes": (19, 8, (512, 1024), (2048, 1024)),
    "ade20k": (150, 16, (512, 512), (2048, 512)),
    "voc12aug": (21, 16, (512, 512), (2048, 512)),
}


def load(row, **overrides):
    return command_line.load_config(REPOSITORY / "configs" / f"{row}.py", **overrides)


def test_there_is_one_file_per_published_row():
    assert set(ROWS) == set(PUBLISHED)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_was_published(row):
    config = load(row)
    miou, tta, digest = PUBLISHED[row]
    assert config.published.miou == miou
    assert config.published.get("miou_tta") == tta
    assert config.published.sha256 == digest
    assert config.published.url.endswith(f"-{digest}.pth")
    data, depth, *crop, schedule = row.split("_")
    classes, batch, crop_size, scale = SETTINGS[data]
    aligned = crop == ["769x769"]
    if aligned:
        crop_size, scale = (769, 769), (2049, 1025)
        assert (config.eval.mode, config.eval.window, config.eval.stride) == (
            "slide",
            (769, 769),
            (513, 513),
        )
    else:
        assert config.eval.mode == "whole"
    assert config.model.num_classes == classes
    assert config.model.align_corners == aligned
    assert config.model.backbone.depth == int(depth[1:])
    assert config.init_from.endswith(f"resnet{depth[1:]}_v1c")
    assert config.batch_size == batch
    assert config.total_steps == int(schedule[:-1]) * 1000
    assert config.data.name == data
    assert (config.data.crop_size, config.data.scale, config.eval.scale) == (
        crop_size,
        scale,
        scale,
    )
    assert f"--config=configs/{row}.py" in (REPOSITORY / "configs" / f"{row}.py").read_text()
    build_network(config.model)


def test_shared_settings_are_the_published_ones():
    config = load("ade20k_r50_80k")
    assert config.optimizer.to_dict() == {
        "learning_rate": 0.01,
        "min_learning_rate": 1e-4,
        "power": 0.9,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "scale_from_batch_size": 0,
        "warmup_steps": 0,
    }
    assert config.data.ratio_range == (0.5, 2.0)
    assert config.data.max_class_fraction == 0.75
    assert config.eval.tta_ratios == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"--config is missing"),
        (["--config=configs/nope.py"], r"no config configs/nope\.py"),
        (
            ["--config.model.backbone.dept=3"],
            r"no key .*dept\. Did you mean model\.backbone\.depth",
        ),
        (["--config.learning_rate=3"], r"Did you mean optimizer\.learning_rate"),
        (["--config.model.backbone.depth=big"], r"config\.model\.backbone\.depth=big"),
        (["--config.data.crop_size=512"], r"config\.data\.crop_size is \(512,\)"),
        (["--config.data.crop_size=a,b"], r"config\.data\.crop_size is \('a,b',\)"),
        (["--workdr=x"], r"workdr"),
        (["stray"], r"'stray' is not a flag"),
        (["--config.model.backbone.depth=51"], r"must be one of 18, 34, 50, 101, 152"),
        (["--config.precision=hi"], r"config\.precision is 'hi'; .* default, high, highest"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, message, tmp_path):
    if arguments and not any(argument.startswith("--config=") for argument in arguments):
        arguments = ["--config=configs/demo.py", *arguments]
    command = [sys.executable, "-m", "nonlocal_jax.main", *arguments]
    if "--workdr=x" not in arguments:
        command.append(f"--workdir={tmp_path}")
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr


def test_loading_in_python_refuses_unknown_keys():
    with pytest.raises(UserError, match=r"Did you mean model\.backbone\.depth"):
        load("ade20k_r50_80k", **{"model.backbone.depht": 3})
    with pytest.raises(UserError, match="wrong type"):
        load("ade20k_r50_80k", **{"model.backbone.depth": "deep"})


def test_missing_data_and_backbone_are_one_message_with_both_commands(tmp_path):
    command = [sys.executable, "-m", "nonlocal_jax.main", "--config=configs/ade20k_r101_160k.py"]
    command += [f"--workdir={tmp_path}/run", f"--config.data_dir={tmp_path}/none"]
    command += [f"--config.init_from={tmp_path}/resnet101_v1c"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "python -m data.prepare ade20k" in done.stderr
    assert "python -m nonlocal_jax.convert --backbone=resnet101_v1c" in done.stderr
    assert not (tmp_path / "run").exists()
