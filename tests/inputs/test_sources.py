"""Bad examples are named or skipped; both sources are found, and give the same."""

import pathlib
import pickle
import shutil

import cv2
import numpy as np
import pytest
import synthetic_trees
from PIL import Image

from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets, sources
from nonlocal_jax.inputs.datasets.dataset import Pair
from nonlocal_jax.inputs.preparation.prepare import prepare


@pytest.fixture
def camvid(tmp_path):
    synthetic_trees.camvid(tmp_path)
    return tmp_path


def open_camvid(root, split="train", kind="folder"):
    return sources.open_source(
        datasets.describe(Data(name="camvid")), split, data_dir=str(root), kind=kind
    )


def first(root, kind):
    return sorted((root / kind / "train").iterdir())[0]


def damage_image(root):
    path = first(root, "images")
    path.write_bytes(path.read_bytes()[:100])
    return path


def damage_mask(root):
    first(root, "labels").write_bytes(b"")
    return first(root, "labels")


def shrink_mask(root):
    cv2.imwrite(str(first(root, "labels")), np.zeros((5, 7), np.uint8))
    return first(root, "labels")


def exceed_classes(root):
    path = first(root, "labels")
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = 11
    Image.fromarray(mask).save(path)
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_image, "cannot be decoded as an image"),
        (damage_mask, "cannot be decoded as a mask: the file is empty"),
        (shrink_mask, "is 7x5, its image 120x90"),
        (exceed_classes, "holds label 11, and there are 11 classes: 0 to 10"),
    ],
)
def test_bad_examples_are_named_or_skipped(camvid, damage, said):
    path = damage(camvid)
    source = open_camvid(camvid)
    with pytest.raises(UserError, match=said) as caught:
        source[0]
    assert str(path) in str(caught.value)
    skipping = sources.SkippingSource(source)
    assert skipping[0].name == source[1].name == skipping[0].name
    assert skipping.skipped() == [0]
    assert skipping[1].name == source[1].name


def test_a_label_out_of_range_is_told_as_the_mask_holds_it(tmp_path):
    synthetic_trees.cityscapes(tmp_path)
    path = next((tmp_path / "gtFine" / "train" / "aachen").glob("*_labelIds.png"))
    mask = np.asarray(Image.open(path)).copy()
    mask[3, 5] = 40
    Image.fromarray(mask).save(path)
    cityscapes = datasets.describe(Data(name="cityscapes"))
    source = sources.open_source(cityscapes, "train", data_dir=str(tmp_path), kind="folder")
    with pytest.raises(UserError, match="holds label 40, which no class is stored as"):
        [source[index] for index in range(len(source))]


def test_a_file_that_vanished_is_named(camvid):
    source = open_camvid(camvid)
    path = first(camvid, "images")
    path.unlink()
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        source[0]


def test_each_bad_example_is_logged_once_by_all_processes(camvid, caplog):
    damage_image(camvid)
    skipping = sources.SkippingSource(open_camvid(camvid))
    in_a_worker = pickle.loads(pickle.dumps(skipping))
    for source in (skipping, in_a_worker, skipping, in_a_worker):
        source[0]
    assert skipping.skipped() == in_a_worker.skipped() == [0]
    warnings = [record for record in caplog.records if "Skipped" in record.getMessage()]
    assert len(warnings) == 1


def test_nothing_but_bad_examples_is_an_error(camvid):
    for path in (camvid / "images" / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="All 3 examples are bad"):
        sources.SkippingSource(open_camvid(camvid))[1]


def test_prepared_is_taken_before_raw_and_gives_the_same(camvid):
    raw = open_camvid(camvid, kind="auto")
    assert isinstance(raw, sources.FolderSource)
    prepare("camvid", camvid, camvid, allow_incomplete=True)
    prepared = open_camvid(camvid, kind="auto")
    assert isinstance(prepared, sources.RecordSource)
    assert isinstance(open_camvid(camvid, kind="folder"), sources.FolderSource)
    assert len(raw) == len(prepared) == 3
    for index in range(3):
        ours, theirs = raw[index], prepared[index]
        assert ours.name == theirs.name
        assert raw.image_size(index) == prepared.image_size(index) == ours.label.shape
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
    again = pickle.loads(pickle.dumps(prepared))[2]
    np.testing.assert_array_equal(again.image, prepared[2].image)
    # The folder itself, or the one above, may be named; a half-written one does not count.
    for folder in (camvid / "camvid", camvid / "camvid" / "1.0.0"):
        assert len(open_camvid(folder, kind="array_record")) == 3
    (camvid / "camvid" / "1.0.0" / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=r"no prepared camvid.*nonlocal-jax prepare camvid"):
        open_camvid(camvid, kind="array_record")


def test_the_newest_version_is_taken(camvid):
    prepare("camvid", camvid, camvid, allow_incomplete=True)
    version = camvid / "camvid" / "1.0.0"
    for newer in ("1.2.0", "1.10.0"):
        shutil.copytree(version, camvid / "camvid" / newer)
    found = sources.find_prepared(datasets.describe(Data(name="camvid")), str(camvid))
    assert found == camvid / "camvid" / "1.10.0"


def test_a_damaged_record_is_an_error_of_its_own(camvid):
    prepare("camvid", camvid, camvid, allow_incomplete=True)
    (records,) = (camvid / "camvid" / "1.0.0").glob("*train*")
    content = bytearray(records.read_bytes())
    photograph = content.index(b"\xff\xd8\xff")
    content[photograph + 600 : photograph + 700] = bytes(100)
    records.write_bytes(content)
    source = open_camvid(camvid, kind="array_record")
    skipping = sources.SkippingSource(source)
    names = [skipping[index].name for index in range(3)]
    assert len(skipping.skipped()) == 1 and len(set(names)) == 2
    with pytest.raises(UserError, match=r"is damaged|cannot be decoded"):
        source[skipping.skipped()[0]]


def test_missing_data_says_how_to_bring_it(tmp_path):
    dataset = datasets.describe(Data(name="ade20k"))
    with pytest.raises(UserError, match=r"nonlocal-jax prepare ade20k --source"):
        sources.open_source(dataset, "train", data_dir=str(tmp_path))


def test_default_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"ade20k": "data/ade", "voc12aug": "data", "cityscapes": "data/cityscapes"}
    for name, place in places.items():
        dataset = datasets.describe(Data(name=name))
        assert sources.find_tree(dataset) is None
        folder = pathlib.Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        getattr(synthetic_trees, name)(folder)
        found = sources.find_tree(dataset)
        assert found is not None and (found / dataset.marker).is_dir()
        assert len(sources.open_source(dataset, "val")) >= 1


def test_real_photographs(shared):
    voc, borders = datasets.describe(Data(name="voc12aug")), 0
    for image in sorted((shared / "voc_sample" / "JPEGImages").iterdir()):
        mask = shared / "voc_sample" / "SegmentationClass" / f"{image.stem}.png"
        pair = Pair(image.name, image, mask)
        example = sources.FolderSource([pair], voc.num_classes)[0]
        np.testing.assert_array_equal(example.image, cv2.imread(str(image))[..., ::-1])
        np.testing.assert_array_equal(example.label, np.asarray(Image.open(mask)))
        borders += np.count_nonzero(example.label == 255)
    assert borders > 0
