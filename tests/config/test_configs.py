"""The sixteen rows are what was published, and every config of configs/ is sound."""

import ast

import pytest
from conftest import REPOSITORY

from nonlocal_jax.config import files

FILES = (REPOSITORY / "configs").glob("*_r[0-9]*.py")
ROWS = sorted(path.stem for path in FILES if not path.stem.startswith("kinetics"))
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


def test_there_is_one_file_per_published_row():
    assert set(ROWS) == set(PUBLISHED)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_was_published(row):
    config = files.load(row)
    miou, tta, digest = PUBLISHED[row]
    assert config.published.miou == miou
    assert config.published.miou_tta == tta
    assert config.published.sha256 == digest
    assert config.published.url.endswith(f"-{digest}.pth")
    data, depth, *crop, schedule = row.split("_")
    classes, batch, crop_size, scale = SETTINGS[data]
    aligned = crop == ["769x769"]
    if aligned:
        crop_size, scale = (769, 769), (2049, 1025)
        assert config.eval.mode == "slide"
        assert (config.eval.window, config.eval.stride) == ((769, 769), (513, 513))
    else:
        assert config.eval.mode == "whole"
    assert config.model.num_classes == classes
    assert config.model.align_corners == aligned
    assert config.model.backbone.depth == int(depth[1:])
    assert config.init_from.endswith(f"resnet{depth[1:]}_v1c")
    assert config.batch_size == batch
    assert config.total_steps == int(schedule[:-1]) * 1000
    assert config.data.name == data
    assert config.data.crop_size == crop_size
    assert config.data.scale == config.eval.scale == scale


def test_shared_settings_are_the_published_ones():
    config = files.load("ade20k_r50_80k")
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (
        0.01,
        0.9,
        5e-4,
    )
    assert (optimizer.scale_from_batch_size, optimizer.warmup_steps) == (0, 0)
    assert (optimizer.schedule.power, optimizer.schedule.min_learning_rate) == (0.9, 1e-4)
    assert config.data.ratio_range == (0.5, 2.0)
    assert config.data.max_class_fraction == 0.75
    assert config.eval.tta_ratios == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize("name", files.names())
def test_a_config_opens_with_its_command_and_imports_shared_settings_alone(name):
    path = files.find(name)
    tree = ast.parse(path.read_text())
    assert f"--config=configs/{name}.py" in ast.get_docstring(tree)
    imports = [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert set(imports) <= {
        "from ml_collections import ConfigDict",
        "from nonlocal_jax.config import common",
        "from nonlocal_jax.config import family",
        "from nonlocal_jax.config import kinetics",
    }
    for row in files.rows(name):
        files.load(f"{name}:{row}")
    if not files.rows(name):
        files.load(name)
