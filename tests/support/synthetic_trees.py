"""Tiny data sets in the exact layouts that the benchmarks are published in, quirks included.

`cityscapes(root)`, `ade20k(root)`, `voc12aug(root)` and `camvid(root)` write a tree under `root`
and return what must come out of it, in order: {"train": [Example, ...], "val": [Example, ...]}.
`archives(name, tree, folder)` packs such a tree into the files that one downloads.
"""

import json
import pathlib
import tarfile
import zipfile
from typing import NamedTuple

import numpy as np
import scipy.io
from jaxtyping import UInt8
from PIL import Image

IGNORED = 255


class Example(NamedTuple):
    """What a reader must give: RGB image as decoded, label with final train ids."""

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]


Splits = dict[str, list[Example]]


def _photograph(
    path: pathlib.Path, seed: int, size: tuple[int, int], grey: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Writes smooth noise in the format of the suffix; returns what it decodes to."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    picture = coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture.convert("L") if grey else picture).save(path)
    with Image.open(path) as written:
        return np.asarray(written.convert("RGB"))


def _blocks(
    seed: int, size: tuple[int, int], values: list[int], block: int = 8
) -> UInt8[np.ndarray, "h w"]:
    """A mask of squares that shows every one of `values` where there is room."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-size[0] // block), -(-size[1] // block)
    chosen = np.resize(np.array(values, np.uint8), rows * columns)
    tiles = rng.permutation(chosen).reshape(rows, columns)
    return np.kron(tiles, np.ones((block, block), np.uint8))[: size[0], : size[1]]


def _save_mask(
    path: pathlib.Path, mask: UInt8[np.ndarray, "h w"], palette: list[int] | None = None
) -> None:
    picture = Image.fromarray(mask)
    if palette is not None:
        picture.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


# --- Cityscapes -----------------------------------------------------------------------------------

# The 19 classes by label id; everything else is void. 255 is how -1, license plate, fits a byte.
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
CITYSCAPES_VOID = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255]

_FRAMES = {
    "train": [
        "zurich/zurich_000001_000019",
        "aachen/aachen_000000_000019",
        "aachen/aachen_000001_000019",
    ],
    "val": ["munster/munster_000000_000019", "frankfurt/frankfurt_000000_000294"],
}


def cityscapes(
    root: pathlib.Path, labels: str = "labelIds", size: tuple[int, int] = (64, 128)
) -> Splits:
    """leftImg8bit and gtFine with one kind of `labels`: labelIds, labelTrainIds or polygons."""
    splits: Splits = {}
    for split, frames in _FRAMES.items():
        examples = []
        for frame in frames:
            seed = sum(frame.encode())
            image = _photograph(root / f"leftImg8bit/{split}/{frame}_leftImg8bit.png", seed, size)
            stem = root / f"gtFine/{split}/{frame}_gtFine"
            label = _cityscapes_label(stem, labels, seed, size)
            _save_mask(stem.with_name(stem.name + "_color.png"), label)
            _save_mask(stem.with_name(stem.name + "_instanceIds.png"), label)
            examples.append(Example(frame, image, label))
        splits[split] = sorted(examples, key=lambda example: example.name)
    test = "berlin/berlin_000000_000019"  # the test split has photographs and empty masks
    _photograph(root / f"leftImg8bit/test/{test}_leftImg8bit.png", 0, size)
    _save_mask(root / f"gtFine/test/{test}_gtFine_labelIds.png", np.zeros(size, np.uint8))
    return splits


def _cityscapes_label(
    stem: pathlib.Path, labels: str, seed: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    if labels == "polygons":
        return _cityscapes_polygons(stem.with_name(stem.name + "_polygons.json"), size)
    ids = _blocks(seed, size, CITYSCAPES_IDS + CITYSCAPES_VOID)
    train_ids = np.full_like(ids, IGNORED)
    for train_id, label_id in enumerate(CITYSCAPES_IDS):
        train_ids[ids == label_id] = train_id
    written = {"labelIds": ids, "labelTrainIds": train_ids}[labels]
    _save_mask(stem.with_name(f"{stem.name}_{labels}.png"), written)
    return train_ids


def _cityscapes_polygons(path: pathlib.Path, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Rectangles whose corners belong to them, painted in order over an unlabelled picture."""
    height, width = size
    # name, (top, left, bottom, right), deleted, train id or None where it must not be painted
    painted: list[tuple[str, tuple[int, int, int, int], bool, int | None]] = [
        ("road", (20, 4, height - 1, width - 1), False, 0),
        ("sky", (0, 4, 19, width - 1), False, 10),
        ("cargroup", (24, 10, 40, 40), False, 13),  # a group counts as its class
        ("license plate", (30, 20, 34, 26), False, None),  # negative id: what is below stays
        ("polegroup", (2, 60, 50, 63), False, IGNORED),  # an id of its own, and void
        ("person", (30, 30, 45, 50), False, 11),  # over the cars
        ("bicycle", (5, 70, 15, 80), True, None),  # deleted by the annotator
        ("ego vehicle", (56, 0, height - 1, width - 1), False, IGNORED),
        ("out of roi", (0, 0, height - 1, 3), False, IGNORED),
    ]
    label = np.full(size, IGNORED, np.uint8)
    objects = []
    for name, (top, left, bottom, right), deleted, train_id in painted:
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        painted_object = {"label": name, "polygon": corners}
        objects.append({**painted_object, "deleted": 1} if deleted else painted_object)
        if train_id is not None:
            label[top : bottom + 1, left : right + 1] = train_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": objects}))
    return label


# --- ADE20K ---------------------------------------------------------------------------------------


def ade20k(root: pathlib.Path) -> Splits:
    """ADEChallengeData2016: JPEGs of many sizes, one of them grey, and masks of 0..150."""
    base = root / "ADEChallengeData2016"
    splits: Splits = {}
    for split, folder, stem, count in (
        ("train", "training", "ADE_train", 4),
        ("val", "validation", "ADE_val", 2),
    ):
        examples = []
        for index in range(1, count + 1):
            name, seed = f"{stem}_{index:08d}", index + 100 * count
            size = (96 + 11 * index, 128 - 9 * index)
            photograph = base / f"images/{folder}/{name}.jpg"
            image = _photograph(photograph, seed, size, grey=index == 2)
            mask = _blocks(seed, size, list(range(151)))
            _save_mask(base / f"annotations/{folder}/{name}.png", mask)
            label = np.where(mask == 0, IGNORED, mask.astype(np.int32) - 1).astype(np.uint8)
            examples.append(Example(name, image, label))
        splits[split] = examples
    (base / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    (base / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    return splits


# --- Pascal VOC 2012 and SBD ----------------------------------------------------------------------

VOC_TRAIN = ["2007_000068", "2007_000032"]  # not sorted: the list's order is the data set's
VOC_VAL = ["2007_000033", "2007_000042"]
# SBD's own split crosses VOC's: it holds pictures of both VOC lists, which must not come twice.
SBD_TRAIN = ["2008_000015", "2007_000032", "2008_000008"]
SBD_VAL = ["2007_000033", "2010_002120"]
VOC_AUG = ["2008_000008", "2008_000015", "2010_002120"]


def voc12aug(root: pathlib.Path, masks: str = "sbd") -> Splits:
    """VOCdevkit/VOC2012, with the extra masks where `masks` says.

    "sbd": as VOCaug/dataset/cls/*.mat; "png": as converted for MMSegmentation, that is
    SegmentationClassAug/*.png and ImageSets/Segmentation/aug.txt.
    """
    voc = root / "VOCdevkit/VOC2012"
    lists = voc / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for stem, names in (("train", VOC_TRAIN), ("val", VOC_VAL), ("trainval", VOC_TRAIN + VOC_VAL)):
        (lists / f"{stem}.txt").write_text("".join(f"{name}\n" for name in names))
    images = {}
    for name in [*VOC_TRAIN, *VOC_VAL, *VOC_AUG, "2012_004331"]:  # the last is only for detection
        images[name] = _photograph(voc / f"JPEGImages/{name}.jpg", _seed(name), _voc_size(name))
    labels = {name: _voc_label(voc, name) for name in VOC_TRAIN + VOC_VAL}
    if masks == "sbd":
        labels.update(_sbd(root / "VOCdevkit/VOCaug/dataset"))
    else:
        (lists / "aug.txt").write_text("".join(f"{name}\n" for name in reversed(VOC_AUG)))
        for name in VOC_AUG:
            labels[name] = _blocks(_seed(name), _voc_size(name), list(range(21)))
            _save_mask(voc / f"SegmentationClassAug/{name}.png", labels[name])
    return {
        "train": [Example(name, images[name], labels[name]) for name in VOC_TRAIN + VOC_AUG],
        "val": [Example(name, images[name], labels[name]) for name in VOC_VAL],
    }


def _seed(name: str) -> int:
    return int(name.replace("_", ""))


def _voc_size(name: str) -> tuple[int, int]:
    return 80 + _seed(name) % 7, 100 + _seed(name) % 11


def _voc_label(voc: pathlib.Path, name: str) -> UInt8[np.ndarray, "h w"]:
    """A palette PNG in VOC's colours, in which 255 outlines the objects."""
    label = _blocks(_seed(name), _voc_size(name), list(range(21)))
    label[::8, :] = label[:, ::8] = IGNORED
    colours = [0] * 768
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                value = (index >> (3 * bit + channel)) & 1
                colours[3 * index + channel] |= value << (7 - bit)
    _save_mask(voc / f"SegmentationClass/{name}.png", label, colours)
    return label


def _sbd(dataset: pathlib.Path) -> dict[str, UInt8[np.ndarray, "h w"]]:
    """Writes SBD; returns the masks that count, which are those of pictures outside VOC's lists."""
    labels = {}
    (dataset / "cls").mkdir(parents=True)
    for name in SBD_TRAIN + SBD_VAL:
        mask = _blocks(_seed(name) + 1, _voc_size(name), list(range(21)))
        present = np.arange(1, 21, dtype=np.uint8)[:, None]
        boundaries = np.empty((20, 1), object)
        boundaries[:] = [[np.zeros((1, 1), np.uint8)]] * 20
        truth = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
        scipy.io.savemat(dataset / f"cls/{name}.mat", {"GTcls": truth}, do_compression=True)
        _photograph(dataset / f"img/{name}.jpg", _seed(name), _voc_size(name))
        if name in VOC_AUG:
            labels[name] = mask
    (dataset / "train.txt").write_text(
        "\n".join(SBD_TRAIN)
    )  # no line end after the last, as published
    (dataset / "val.txt").write_text("\n".join(SBD_VAL))
    return labels


# --- CamVid ---------------------------------------------------------------------------------------


def camvid(root: pathlib.Path, train: int = 3, size: tuple[int, int] = (90, 120)) -> Splits:
    """images/SPLIT/*.jpg and labels/SPLIT/*.png, eleven classes and 255."""
    splits: Splits = {}
    for split, count in (("train", train), ("val", 2)):
        examples = []
        for index in range(count):
            name, seed = f"0001TP_{6690 + 30 * index:06d}", 7 * index + count
            image = _photograph(root / f"images/{split}/{name}.jpg", seed, size)
            label = _blocks(seed, size, [*range(11), IGNORED])
            _save_mask(root / f"labels/{split}/{name}.png", label)
            examples.append(Example(name, image, label))
        splits[split] = examples
    return splits


# --- The same trees as downloads ------------------------------------------------------------------


def archives(name: str, tree: pathlib.Path, folder: pathlib.Path) -> None:
    """Packs a tree that this module wrote into files named and laid out as the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "cityscapes":
        for part in ("leftImg8bit", "gtFine"):
            _zip(folder / f"{part}_trainvaltest.zip", tree / part, part)
    elif name == "ade20k":
        base = "ADEChallengeData2016"
        _zip(folder / f"{base}.zip", tree / base, base)
    else:
        with tarfile.open(folder / "VOCtrainval_11-May-2012.tar", "w") as tar:
            tar.add(tree / "VOCdevkit/VOC2012", "VOCdevkit/VOC2012")
        with tarfile.open(folder / "benchmark.tgz", "w:gz") as tar:
            tar.add(tree / "VOCdevkit/VOCaug/dataset", "benchmark_RELEASE/dataset")


def _zip(path: pathlib.Path, source: pathlib.Path, inside: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", b"terms of use")
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            archive.write(file, f"{inside}/{file.relative_to(source)}")
