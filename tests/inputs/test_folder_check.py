"""`prepare folder` says what is wrong with a folder of your own, and suggests a config."""

import numpy as np
import pytest
from own_folders import (
    both_splits,
    coco,
    coloured,
    labels,
    write_classes,
    write_coco,
    write_image,
    write_mask,
)

from nonlocal_jax import prepare
from nonlocal_jax.config import files
from nonlocal_jax.inputs.loader import Inputs
from nonlocal_jax.inputs.preparation import folder_check, suggestion

NO_LISTS = {"train": "", "val": ""}


def sound(root):
    write_classes(root)
    for number in range(4):
        split = "train" if number < 3 else "val"
        write_image(root, f"{split}/{number}.jpg", number)
        write_mask(root, f"{split}/{number}.png", labels(number))


def suggested(text, path):
    """The config in a report."""
    path.write_text(text.partition("save as my/config.py:\n\n")[2].rpartition("\n\n")[0])
    return files.load(path)


def test_a_sound_folder_gets_tables_and_a_config_that_runs(tmp_path, capsys):
    root = tmp_path / "data"
    sound(root)
    assert prepare.run(["folder", f"--source={root}"]) == 0
    out = capsys.readouterr().out
    assert "train         3  24x32" in out and "val           1  24x32" in out
    assert "Problems" not in out and out.endswith("data is ready for training.\n")
    assert "    0  road" in out and "% of labelled pixels" in out
    config = suggested(out.replace("\n" + out.splitlines()[-1], "\n"), tmp_path / "mine.py")
    assert (config.data_dir, config.model.num_classes) == (str(root), 3)
    assert config.data.scale == config.eval.scale == (32, 24)
    assert (config.data.crop_size, config.total_steps) == ((32, 32), 1000)
    inputs = Inputs.of(config)
    inputs.check()
    assert next(inputs.train_batches())["image"].shape == (8, 32, 32, 3)


def test_everything_that_is_wrong_is_told_at_once(tmp_path, capsys):
    sound(tmp_path)
    write_image(tmp_path, "train/lonely.jpg", 9)
    write_image(tmp_path, "val/again.jpg", 1)  # is train/1.jpg
    write_mask(tmp_path, "val/again.png", np.full((24, 32), 255, np.uint8))
    write_mask(tmp_path, "train/orphan.png", labels())
    write_mask(tmp_path, "train/0.png", labels()[:5])
    path = write_mask(tmp_path, "train/2.png", labels() + 7)
    (tmp_path / "images" / "val" / "3.jpg").write_bytes(b"none")
    assert prepare.run(["folder", f"--source={tmp_path}"]) == 2
    out, err = capsys.readouterr()
    problems = out.partition("Problems:\n")[2].splitlines()
    for expected in (
        "lonely.jpg has no mask",
        "0.png is 32x5, its image 32x24",
        f"{path} holds label",
        "3.jpg cannot be decoded as an image",
    ):
        assert sum(expected in line for line in problems) == 1, expected
    assert "has 4 problems: see the list above" in err
    notes = out.partition("Notes:\n")[2].partition("Problems:")[0]
    assert "1 masks in" in notes and "orphan.png" in notes
    assert "The split 'val' never shows road, sky, car." in notes
    assert "1 masks of 'val' are ignored everywhere: again.jpg." in notes
    assert "1 images are in both splits: train/1.jpg = val/again.jpg." in notes


def test_one_problem_is_one_and_a_split_without_images_has_no_sizes(tmp_path, capsys):
    sound(tmp_path)
    for path in (tmp_path / "images" / "val").iterdir():
        path.unlink()
    assert prepare.run(["folder", f"--source={tmp_path}"]) == 2
    out, err = capsys.readouterr()
    assert "has 1 problem: see the list above" in err
    assert "val           0\n" in out and "0x0" not in out


def test_masks_and_images_that_belong_together_twice_are_told(tmp_path):
    sound(tmp_path)
    for end in ("png", "PNG"):
        write_mask(tmp_path, f"train/0.{end}", labels())
    write_image(tmp_path, "train/1.png", 1)
    report = folder_check.check(tmp_path, NO_LISTS)
    assert len(report.problems) == 2
    assert "0.jpg has more than one mask" in report.problems[0]
    assert "1.jpg and " in report.problems[1] and "share one mask" in report.problems[1]
    assert not any("belong to no image" in note for note in report.notes)
    (tmp_path / "train.txt").write_text("train/0\ntrain/2\n")
    (tmp_path / "images" / "train" / "1.png").unlink()
    report = folder_check.check(tmp_path, {"train": "train.txt", "val": ""})
    assert len(report.problems) == 1 and "0.jpg has more than one mask" in report.problems[0]


def test_many_problems_are_counted(tmp_path):
    sound(tmp_path)
    for number in range(30):
        write_image(tmp_path, f"train/x{number}.jpg")
    report = folder_check.check(tmp_path, NO_LISTS)
    assert len(report.problems) == folder_check.SHOWN + 1
    assert report.problems[-1] == "10 more in the split 'train'."


def test_a_folder_without_validation_or_classes_is_told(tmp_path, capsys):
    assert prepare.run(["folder", f"--source={tmp_path}"]) == 2
    assert "has no class list. Write classes.txt" in capsys.readouterr().err
    write_classes(tmp_path)
    write_image(tmp_path, "train/a.jpg")
    write_mask(tmp_path, "train/a.png", labels())
    report = folder_check.check(tmp_path, NO_LISTS)
    assert any("There is no folder" in line and "labels/val" in line for line in report.problems)
    assert prepare.run(["folder"]) == 2
    assert "--source is missing" in capsys.readouterr().err
    assert prepare.run(["camvid", "--train_list=x"]) == 2
    assert "are for `prepare folder`, not camvid" in capsys.readouterr().err


def test_lists_and_the_other_masks_are_checked_too(tmp_path):
    write_classes(tmp_path, masks="colours")
    pixels = coloured(labels())
    pixels[3, 4] = 1, 2, 3
    for name in ("a", "b"):
        write_image(tmp_path, f"{name}.png", ord(name))
        write_mask(tmp_path, f"{name}.png", pixels)
    (tmp_path / "train.txt").write_text("a\nnine\n")
    (tmp_path / "val.txt").write_text("b.png\n")
    report = folder_check.check(tmp_path, {"train": "train.txt", "val": "val.txt"})
    assert len(report.problems) == 3
    assert "names nine, and there is no such image" in report.problems[0]
    assert "a.png has the colour [1, 2, 3]" in report.problems[1]
    assert "b.png has the colour [1, 2, 3]" in report.problems[2]
    write_classes(tmp_path, masks="polygons")
    for split in ("train", "val"):
        write_image(tmp_path, f"{split}/c.png")
        write_coco(tmp_path, split, coco(images=("c.png",) if split == "val" else ()))
    report = folder_check.check(tmp_path, NO_LISTS)
    assert len(report.problems) == 1 and 'no entry of "file_name": "c.png"' in report.problems[0]


def test_the_lists_are_in_the_suggested_config(tmp_path):
    write_classes(tmp_path)
    both_splits(tmp_path, lambda name: write_mask(tmp_path, name, labels()))
    (tmp_path / "mine.txt").write_text("train/a\n")
    report = folder_check.check(tmp_path, {"train": "mine.txt", "val": ""})
    assert not report.problems
    path = tmp_path / "mine.py"
    path.write_text(report.config)
    assert files.load(path).data.train_list == "mine.txt"


@pytest.mark.parametrize(
    ("count", "size", "crop", "steps"),
    [
        (10, (300, 200), (288, 192), 1000),
        (400, (1024, 2048), (512, 512), 4000),
        (10**6, (20, 700), (32, 512), 40000),
    ],
)
def test_what_is_suggested(tmp_path, count, size, crop, steps):
    from nonlocal_jax.config.schema import Data
    from nonlocal_jax.inputs import datasets

    write_classes(tmp_path)
    dataset = datasets.describe(Data(name="folder"), str(tmp_path))
    path = tmp_path / "mine.py"
    path.write_text(suggestion.config(tmp_path, dataset, [size] * count, NO_LISTS))
    config = files.load(path)
    assert (config.data.crop_size, config.total_steps) == (crop, steps)
    assert config.data.scale == (max(size), min(size))
