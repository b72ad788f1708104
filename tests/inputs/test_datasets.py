"""Names, colours, label maps and folder layouts of the data sets."""

import json
import os

import numpy as np
import pytest

from nonlocal_jax.config import files
from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets
from nonlocal_jax.inputs.datasets import ade20k, cityscapes


def describe(name, data_dir="", **settings):
    return datasets.describe(Data(name=name, **settings), str(data_dir))


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("name", "classes", "train", "val"),
    [("cityscapes", 19, 2975, 500), ("ade20k", 150, 20210, 2000), ("voc12aug", 21, 10582, 1449)],
)
def test_the_benchmarks_have_their_published_numbers(name, classes, train, val):
    dataset = describe(name)
    assert dataset.num_classes == classes == len(dataset.palette)
    assert dataset.counts == {"train": train, "val": val}
    assert len(set(dataset.class_names)) == classes
    same_colour = name == "ade20k"  # two of its classes share one, as published
    assert len(np.unique(dataset.palette, axis=0)) == classes - same_colour


def test_some_names_and_colours():
    ade20k, voc = describe("ade20k"), describe("voc12aug")
    assert (ade20k.class_names[0], ade20k.class_names[-1]) == ("wall", "flag")
    assert ade20k.palette[[0, 149]].tolist() == [[120, 120, 120], [92, 0, 255]]
    assert (voc.class_names[0], voc.class_names[20]) == ("background", "tvmonitor")
    assert voc.palette[[0, 1, 20]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 64, 128]]
    assert describe("cityscapes").palette[13].tolist() == [0, 0, 142]  # car


def test_unknown_data_sets_are_named():
    with pytest.raises(
        UserError, match=r"'ade'.*cityscapes, ade20k, voc12aug, camvid, scenes, folder"
    ):
        describe("ade")


def test_cityscapes_ids_become_train_ids():
    table = cityscapes.label_table()
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10}
    published |= {24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    for value in (*range(34), 255):  # 255 is license plate, -1 in a byte
        assert table[value] == published.get(value, 255), value
    assert not np.isin(table[34:255], [*range(19), 255]).any(), "other numbers are no labels"


def test_ade20k_labels_move_down_by_one():
    table = ade20k.label_table()
    assert table[[0, 1, 150, 255]].tolist() == [255, 0, 149, 255]


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "classes.txt").write_text("road\n\nsky\ncar\n")
    plain = describe("folder", tmp_path)
    assert plain.class_names == ("road", "sky", "car") and plain.label_table is None
    assert len(np.unique(plain.palette, axis=0)) == 3
    mapped = describe("folder", tmp_path, label_map={7: 1, 100: 255}, reduce_zero_label=True)
    # The map comes first, as in the reference: 7 -> 1 -> 0.
    assert mapped.label_table[[0, 1, 3, 7, 100]].tolist() == [255, 0, 2, 0, 255]
    (tmp_path / "own.json").write_text(
        json.dumps({"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]})
    )
    named = describe("folder", tmp_path, classes_file="own.json")
    assert named.class_names == ("a", "b") and named.palette.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "one\ntwo\none",
        '{"names": []}',
        '["a", "b"]',
        '{"classes": "road"}',
        '{"classes": ["a", 2]}',
        '{"classes": ["a", ""]}',
        '{"classes": ["a", "b\\u001b[31m"]}',
        '{"classes": ["a", "b\\ud800"]}',
        '{"classes": ["a", "b", "a"]}',
        '{"classes": ["a", "b"], "classes": ["a", "c"]}',
        '{"classes": ["a", "b"], "label_map": {"7": 0, "7": 1}}',
        '{"classes": ["a", "b"], "label_map": {"07": 0, "7": 1}}',
        "[" * 100_000,
        '{"classes": ["a", "b"], "palette": [[1]]}',
        '{"classes": ["a", "b"], "palette": [[1, 2, 3]]}',
        '{"classes": ["a", "b"], "palette": [[1, 2, 3], [1, 2, 256]]}',
        '{"classes": ["a", "b"], "palete": [[1, 2, 3], [1, 2, 4]]}',
    ],
)
def test_bad_class_lists_name_the_file(tmp_path, text):
    file = tmp_path / ("classes.json" if text[:1] in "{[" and text else "classes.txt")
    file.write_text(text)
    with pytest.raises(UserError, match=str(file)):
        describe("folder", tmp_path)


@pytest.mark.parametrize("name", ["classes.txt", "classes.json"])
def test_a_class_list_may_begin_with_a_mark_of_its_encoding(tmp_path, name):
    text = "road\nsky\n" if name.endswith("txt") else '{"classes": ["road", "sky"]}'
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert describe("folder", tmp_path).class_names == ("road", "sky")


def test_a_missing_class_list_says_what_to_write(tmp_path):
    with pytest.raises(UserError, match=r"classes\.txt"):
        describe("folder", tmp_path)


def test_label_map_out_of_range(tmp_path):
    with pytest.raises(UserError, match="300"):
        files.load("camvid", **{"data.name": "folder", "data.label_map": {300: 1}})
    write_json(tmp_path, label_map={"300": 1})
    with pytest.raises(UserError, match=r"classes\.json is not a class list: label_map\.300"):
        describe("folder", tmp_path)
    write_json(tmp_path, label_map={"30": 2})
    with pytest.raises(UserError, match=r"classes\.json has 30: 2; a label must be 0 to 1"):
        describe("folder", tmp_path)


def write_json(folder, **content):
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b"], **content}))


def test_what_the_folder_states_needs_no_setting(tmp_path):
    write_json(tmp_path, label_map={"7": 2, "11": 1}, reduce_zero_label=True)
    expected = [255, 0, 1, 1, 0]
    for settings in ({}, {"label_map": {7: 2, 11: 1}, "reduce_zero_label": True}):
        dataset = describe("folder", tmp_path, **settings)
        assert dataset.label_table[[0, 1, 2, 7, 11]].tolist() == expected


@pytest.mark.parametrize(
    ("stated", "setting"),
    [
        ({"label_map": {"7": 1}}, {"label_map": {7: 0}}),
        ({"label_map": {}}, {"label_map": {7: 0}}),
        ({"reduce_zero_label": False}, {"reduce_zero_label": True}),
    ],
)
def test_what_the_folder_and_the_config_state_must_agree(tmp_path, stated, setting):
    write_json(tmp_path, **stated)
    (key,) = setting
    with pytest.raises(UserError, match=rf"^config\.data\.{key} is .*classes\.json states"):
        describe("folder", tmp_path, **setting)


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc12aug", "camvid", "scenes"])
@pytest.mark.parametrize(
    "setting", [{"label_map": {7: 0}}, {"reduce_zero_label": True}, {"classes_file": "a.txt"}]
)
def test_settings_that_a_data_set_does_not_read_are_refused(name, setting):
    (key,) = setting
    with pytest.raises(UserError, match=rf"config\.data\.{key} .*{name} does not read it"):
        describe(name, **setting)


def test_folders_are_listed_recursively_in_plain_order(tmp_path, caplog):
    names = ["b/2.jpg", "B.png", "a.jpeg", "b/10.JPG"]
    for name in names:
        touch(tmp_path / "images" / "train" / name)
        touch((tmp_path / "labels" / "train" / name).with_suffix(".png"))
    images = tmp_path / "images" / "train"
    touch(images / ".hidden.jpg", images / "note.txt", images / ".ipynb_checkpoints" / "a.jpg")
    os.mkfifo(images / "pipe.png")
    (images / "device.png").symlink_to("/dev/zero")
    (images / "itself.png").symlink_to(images / "itself.png")
    (images / "b" / "loop").symlink_to(images)
    (images / "a").symlink_to(images / "b")  # is used already, and so is left out
    touch(tmp_path / "elsewhere" / "3.jpg", tmp_path / "other" / "3.png")
    (images / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "labels" / "train" / "c").symlink_to(tmp_path / "other")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    dataset = describe("folder", tmp_path)
    listed = [pair.name for pair in dataset.pairs(tmp_path, "train")]
    assert listed == sorted([*names, "c/3.jpg"])
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"Not used below {images}: 8 that are")


def test_two_images_that_share_a_mask_are_named(tmp_path):
    images = tmp_path / "images" / "train"
    touch(images / "1.jpg", images / "1.png", tmp_path / "labels" / "train" / "1.png")
    with pytest.raises(UserError, match=r"1\.jpg and .*1\.png share one mask"):
        describe("camvid").pairs(tmp_path, "train")


def test_two_masks_of_an_image_are_named(tmp_path):
    labels = tmp_path / "labels" / "train"
    touch(tmp_path / "images" / "train" / "0.jpg", labels / "0.png", labels / "0.PNG")
    with pytest.raises(UserError, match=r"0\.jpg has more than one mask, .*0\.PNG and .*0\.png\."):
        describe("camvid").pairs(tmp_path, "train")


def test_suffixes_may_be_in_upper_case(tmp_path):
    touch(tmp_path / "images" / "train" / "0.JPG", tmp_path / "labels" / "train" / "0.PNG")
    (pair,) = describe("camvid").pairs(tmp_path, "train")
    assert (pair.name, pair.label_path.name) == ("0.JPG", "0.PNG")


def test_an_image_without_a_mask_is_named(tmp_path):
    touch(tmp_path / "images" / "train" / "a.jpg", tmp_path / "labels" / "train" / "b.png")
    with pytest.raises(UserError, match=r"images/train/a\.jpg has no mask.*labels/train/a\.png"):
        describe("camvid").pairs(tmp_path, "train")


def test_empty_and_missing_folders_are_named(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{tmp_path} has no image"):
        describe("camvid").pairs(tmp_path, "train")
    with pytest.raises(UserError, match=r"There is no folder .*val"):
        describe("camvid").pairs(tmp_path, "val")


def test_cityscapes_prefers_train_ids(tmp_path):
    frame = "leftImg8bit/val/city/city_0_0"
    mask = "gtFine/val/city/city_0_0_gtFine_label"
    touch(tmp_path / f"{frame}_leftImg8bit.png")
    with pytest.raises(UserError, match=r"city_0_0_leftImg8bit\.png has no mask"):
        describe("cityscapes").pairs(tmp_path, "val")
    touch(tmp_path / f"{mask}Ids.png")
    (pair,) = describe("cityscapes").pairs(tmp_path, "val")
    assert pair.label_path.name.endswith("labelIds.png") and pair.label_table is not None
    touch(tmp_path / f"{mask}TrainIds.png")
    (pair,) = describe("cityscapes").pairs(tmp_path, "val")
    assert pair.label_path.name.endswith("labelTrainIds.png") and pair.label_table is None


def test_voc_trains_on_its_own_masks_then_on_sbd(tmp_path):
    splits = tmp_path / "ImageSets" / "Segmentation"
    splits.mkdir(parents=True)
    for split, names in {"train": "b a", "aug": "d c", "val": "e"}.items():
        (splits / f"{split}.txt").write_text("\n".join(names.split()))
        folder = "SegmentationClassAug" if split == "aug" else "SegmentationClass"
        for name in names.split():
            touch(tmp_path / "JPEGImages" / f"{name}.jpg", tmp_path / folder / f"{name}.png")
    pairs = describe("voc12aug").pairs(tmp_path, "train")
    assert [pair.name for pair in pairs] == ["b.jpg", "a.jpg", "c.jpg", "d.jpg"]
    assert [pair.label_path.parent.name for pair in pairs] == [
        *["SegmentationClass"] * 2,
        *["SegmentationClassAug"] * 2,
    ]
    (splits / "aug.txt").unlink()
    with pytest.raises(UserError, match=r"aug\.txt is missing.*nonlocal-jax prepare voc12aug"):
        describe("voc12aug").pairs(tmp_path, "train")
