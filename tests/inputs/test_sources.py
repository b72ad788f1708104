"""Decoding equals the reference's decoders; bad data is named; both sources are found."""

import io
import pathlib
import pickle
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
import synthetic_trees
from PIL import Image, ImageOps

from nonlocal_jax.config.schema import Data
from nonlocal_jax.errors import UserError
from nonlocal_jax.inputs import datasets, decode, sources
from nonlocal_jax.inputs.datasets.dataset import Pair
from nonlocal_jax.inputs.preparation.prepare import prepare

RNG = np.random.default_rng(0)
PHOTO = cv2.resize(RNG.integers(0, 256, (9, 11, 3), dtype=np.uint8), (61, 47))
TURNED = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06" + bytes(
    7
)


def encoded(array, kind, mode=None, **options):
    picture = Image.fromarray(array)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded(PHOTO, "JPEG", quality=92),
        encoded(PHOTO, "JPEG", subsampling=0),
        encoded(PHOTO, "JPEG", progressive=True),
        encoded(PHOTO, "JPEG", mode="L"),
        encoded(PHOTO, "JPEG", mode="CMYK"),
        encoded(PHOTO, "JPEG", exif=TURNED),
        encoded(PHOTO, "PNG"),
        encoded(PHOTO, "PNG", mode="L"),
        encoded(PHOTO, "PNG", mode="P"),
        encoded(PHOTO, "PNG", mode="RGBA"),
        encoded(PHOTO[..., 0].astype(np.uint16) * 257, "PNG"),
        encoded(PHOTO, "BMP"),
    ],
)
def test_images_decode_as_opencv_decodes_them(data):
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode.decode_image(data, "it"), expected)
    assert decode.image_size(data, "it") == expected.shape[:2]


def palette_png(mask, colours=None):
    picture = Image.fromarray(mask)
    picture.putpalette(colours or list(range(255, -1, -1)) * 3)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("top", [2, 14, 255])  # Pillow packs few colours into fewer bits
def test_masks_decode_to_their_numbers_whatever_their_palette(top):
    mask = RNG.integers(0, top, (13, 17), dtype=np.uint8)
    for data in (encoded(mask, "PNG"), palette_png(mask)):
        np.testing.assert_array_equal(decode.decode_label(data, "it"), mask)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), mask)
    wide = encoded(mask.astype(np.uint16), "PNG")
    np.testing.assert_array_equal(decode.decode_label(wide, "it"), mask)


def test_masks_that_are_none():
    with pytest.raises(UserError, match="it is a colour picture with 3 channels"):
        decode.decode_label(encoded(PHOTO, "PNG"), "it")
    with pytest.raises(UserError, match="it holds 300"):
        decode.decode_label(encoded(np.full((2, 2), 300, np.uint16), "PNG"), "it")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_files_are_named(kind):
    whole = encoded(PHOTO, kind)
    for data in (b"", b"junk", whole[: len(whole) // 2], whole[:20]):
        with pytest.raises(UserError, match=r"^that\.file cannot be decoded as an image"):
            decode.decode_image(data, "that.file")
    mask = encoded(PHOTO[..., 0], "PNG")
    for data in (b"", b"junk", mask[: len(mask) // 2], mask[:20]):
        with pytest.raises(UserError, match=r"^that\.file cannot be decoded as a mask"):
            decode.decode_label(data, "that.file")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_turned_as_exif_says(kind):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(PHOTO, kind, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(decode.decode_image(data, "it"), expected)
        assert decode.image_size(data, "it") == expected.shape[:2]


def png(width, height, *, crc_is_right=True):
    """A PNG of a header alone, more or less."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content) ^ (not crc_is_right)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [png(40_000, 40_000), png(2**31 - 1, 2**31 - 1), png(0, 5), png(60, 48, crc_is_right=False)],
    ids=["too large", "absurd", "empty", "damaged"],
)
def test_a_header_that_cannot_be_true_is_refused_before_memory_is_taken(data):
    for function in (decode.image_size, decode.decode_image, decode.decode_label):
        with pytest.raises(UserError, match=r"^it cannot be decoded as"):
            function(data, "it")


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
    with pytest.raises(UserError, match=r"no prepared camvid.*nonlocal_jax\.prepare camvid"):
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
    with pytest.raises(UserError, match=r"python -m nonlocal_jax\.prepare ade20k --source"):
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
