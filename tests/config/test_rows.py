"""The rows of the sister methods: what they are called, what they share, and what was published."""

import dataclasses
import json
import pathlib

import pytest

from nonlocal_jax.config import files
from nonlocal_jax.errors import UserError

METHODS = {
    "dnl": "dnlnet",
    "gc": "gcnet",
    "ann": "ann",
    "cc": "ccnet",
    "da": "danet",
    "isa": "isanet",
    "ema": "emanet",
    "psa": "psanet",
    "fcn": "fcn",
}
DATASETS = {"Cityscapes": "cityscapes", "ADE20K": "ade20k", "Pascal VOC 2012 + Aug": "voc12aug"}
ROWS = [name for name in files.names_with_rows() if name.partition(":")[0] in METHODS]


def test_there_are_as_many_rows_as_were_published():
    assert len(ROWS) == len(set(ROWS)) == 128
    assert {len(files.rows(method)) for method in METHODS} == {4, 12, 16}
    assert {m for m in METHODS if len(files.rows(m)) != 16} == {"dnl", "ema"}
    assert not files.rows("ade20k_r50_80k") and "ade20k_r50_80k" in files.names_with_rows()


@pytest.mark.parametrize("method", METHODS)
def test_a_row_differs_from_nonlocals_in_its_head_alone(method):
    for row in files.rows(method):
        config, base = files.load(f"{method}:{row}"), files.load(row)
        assert config.model.decode_head.name == method
        assert config.published != base.published
        head = config.model.decode_head
        assert (head.channels, head.dropout) == (256 if method == "ema" else 512, 0.1)
        changed = dataclasses.replace(config.model, decode_head=base.model.decode_head)
        others = {"model": changed, "published": base.published}
        if f"{method}:{row}" in UNDECAYED:
            assert config.optimizer != base.optimizer
            others["optimizer"] = base.optimizer
        assert dataclasses.replace(config, **others) == base


# Their reference takes the weight decay off theta and phi.
UNDECAYED = ("dnl:cityscapes_r50_769x769_80k", "dnl:cityscapes_r101_769x769_80k")


def test_every_row_has_its_published_numbers(shared):
    published = json.loads((shared / "FAMILY.json").read_text())
    found = {}
    for name in ROWS:
        config, row = files.load(name), files.load(name).published
        height, width = config.data.crop_size
        stem = pathlib.PurePath(row.url).parent.name
        found[stem] = {
            "method": METHODS[name.partition(":")[0]],
            "name": stem,
            "dataset": config.data.name,
            "backbone": f"R-{config.model.backbone.depth}-D8",
            "crop": f"({height},{width})",
            "steps": config.total_steps,
            "memory_gb": row.memory_gb,
            "fps": row.fps,
            "miou": row.miou,
            "miou_tta": row.miou_tta,
            "url": row.url,
        }
        assert row.url.endswith(f"-{row.sha256}.pth") and len(row.sha256) == 8
    assert len(published) == len(found) == 128
    for row in published:
        assert found[row["name"]] == {**row, "dataset": DATASETS[row["dataset"]]}


@pytest.mark.parametrize("name", ["gc", "configs/gc.py", "gc:ade20k_r18_80k", "gc:"])
def test_a_wrong_or_missing_row_is_told_with_all_that_there_are(name):
    with pytest.raises(UserError) as told:
        files.load(name)
    assert str(told.value).endswith(f": {', '.join(files.rows('gc'))}.")
    assert "r18" not in name or "no row 'ade20k_r18_80k'" in str(told.value)
    assert str(told.value).count(". ") == 0  # one sentence


def test_a_row_is_found_by_path_and_by_name(tmp_path):
    one, other = files.load("configs/fcn.py:ade20k_r50_80k"), files.load("fcn:ade20k_r50_80k")
    assert one == other and one.published.miou == 35.94
    mine = tmp_path / "mine.py"
    mine.write_text("ROWS = {'a': 1}\ndef get_config(row): pass\n")
    assert files.rows(mine) == ["a"]
