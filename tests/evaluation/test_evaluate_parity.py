"""Every prediction and score against the reference's, on photographs and pictures of odd sizes."""

import json
import pathlib
import subprocess
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from evaluations import mesh_of
from PIL import Image

from nonlocal_jax.checkpoints import locate
from nonlocal_jax.checkpoints.pytorch import convert
from nonlocal_jax.config import files
from nonlocal_jax.evaluation.evaluate import Evaluation
from nonlocal_jax.evaluation.predictor import Predictor
from nonlocal_jax.evaluation.restore import restore
from nonlocal_jax.runtime import sharding

pytestmark = pytest.mark.parity

DRIVER = REPOSITORY / "tests" / "golden" / "reference_evaluate.py"
TINY = {
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.decode_head.channels": 32,
    "model.auxiliary_head.channels": 16,
}
CLASSES = 21
ODD_SIZES = ((1, 1), (37, 53), (131, 29), (64, 97), (200, 31), (75, 75), (3, 90))


class Case(NamedTuple):
    """One evaluation: which network on what, by which protocol."""

    row: str
    tta: bool = False
    slide: tuple[int, int] | None = None
    align_corners: bool | None = None  # None: the row's
    scale: tuple[int, int] = (320, 240)
    tiny: bool = True
    seed: int = 0
    odd: int = 7  # how many synthetic pictures
    photographs: int = 4
    double: bool = False  # the reference's network in float64


R50, R101 = "ade20k_r50_80k", "ade20k_r101_160k"
R50_769, R101_769 = "cityscapes_r50_769x769_40k", "cityscapes_r101_769x769_80k"
FULL = {"tiny": False, "odd": 1, "photographs": 2}
# Attention logits of a random R-101 reach 27,000: in float32 the reference differs from itself.
EXACT = FULL | {"double": True}
CASES = {
    "whole": Case(R50, seed=1),
    "whole, voc, other scale": Case("voc12aug_r50_40k", seed=2, scale=(401, 223)),
    "whole, R-101": Case(R101, seed=3),
    "whole, aligned": Case(R50, align_corners=True, seed=4, scale=(257, 193)),
    "slide": Case(R50_769, slide=(161, 129), seed=5),
    "slide, other windows": Case(R50_769, slide=(97, 203), seed=6, scale=(433, 257)),
    "slide, R-101": Case(R101_769, slide=(129, 129), seed=7),
    "slide, not aligned": Case(R50_769, slide=(112, 150), align_corners=False, seed=8),
    "ms+flip": Case(R50, tta=True, seed=9, scale=(160, 120)),
    "ms+flip, aligned": Case(R50, tta=True, align_corners=True, seed=10, scale=(193, 97)),
    "ms+flip, R-101": Case(R101, tta=True, seed=11, scale=(128, 96), photographs=2),
    "ms+flip, slide": Case(R50_769, tta=True, slide=(97, 97), seed=12, scale=(161, 129)),
    "full whole": Case(R50, seed=13, **FULL),
    "full slide": Case(R50_769, slide=(161, 129), seed=14, **FULL),
    "full ms+flip": Case(R50, tta=True, seed=15, **FULL),
    "full slide ms+flip": Case(R50_769, tta=True, slide=(161, 129), seed=16, **FULL),
    "full whole, R-101": Case(R101, seed=17, **EXACT),
    "full slide, R-101": Case(R101_769, slide=(161, 129), seed=18, **EXACT),
}


@pytest.mark.parametrize("name", CASES)
def test_every_image_is_predicted_and_scored_as_by_the_reference(
    name, shared, reference_python, tmp_path
):
    case, data = CASES[name], tmp_path / "data"
    write_data(case, shared, data)
    config = files.load(REPOSITORY / "configs" / f"{case.row}.py", **overrides(case, data))
    stem = pathlib.PurePath(config.published.url).parent.name
    checkpoint, reference = tmp_path / "reference.pth", [reference_python, "-W", "ignore"]
    peer = shared / "peer" / "peer.py"
    narrow = ["--tiny"] * case.tiny
    run(
        *reference,
        peer,
        "init",
        stem,
        checkpoint,
        "--classes",
        CLASSES,
        "--seed",
        case.seed,
        *narrow,
    )
    protocol = [f"--scale={case.scale[0]},{case.scale[1]}", *["--tta"] * case.tta]
    protocol.append(f"--align_corners={int(config.model.align_corners)}")
    if case.slide:
        protocol.append(f"--slide={case.slide[0]},{case.slide[1]}")

    def evaluated(*how):
        run(*reference, DRIVER, peer, stem, checkpoint, data, tmp_path / "out.npz", *protocol, *how)
        return dict(np.load(tmp_path / "out.npz"))

    single = evaluated()
    expected = evaluated("--double") if case.double else single

    target = convert.config_target(config, case.row)
    convert.import_(target, str(checkpoint), tmp_path / "checkpoint")
    restored = restore(locate.find(tmp_path / "checkpoint"), config)
    mesh, masks = mesh_of(1), {}
    variables = jax.device_put(restored.variables, sharding.replicated(mesh))
    evaluation = Evaluation.of(config, restored.network, mesh, tta=case.tta)
    scores = evaluation.run(variables, on_mask=masks.__setitem__, log=print)

    predictor = Predictor(restored, tta=case.tta)
    paths = sorted((data / "images" / "val").iterdir())
    assert sorted(masks) == list(range(len(paths)))
    for index, path in enumerate(paths):
        print_differences(predictor, path, masks[index], expected, single)
    for index, path in enumerate(paths):
        check_mask(predictor, path, masks[index], expected)
    check_scores(scores, expected)


def print_differences(predictor, path, mask, expected, single):
    """Of our mask, the expected one, and the reference's in float32, from each other."""
    double, theirs = expected[f"mask/{path.stem}"], single[f"mask/{path.stem}"]
    pairs = {
        "ours from expected": (mask, double),
        "ours from float32": (mask, theirs),
        "float32 from expected": (theirs, double),
    }
    for pair, (one, other) in pairs.items():
        print(f"{path.stem} {mask.shape}, {pair}: {(one != other).sum()} pixels", end="")
        if (one != other).any():
            first, second = choices(predictor, path, one, other)
            apart = np.abs(first - second).max()
            largest = np.abs(predictor.logits(pixels(path))).max()
            share = np.abs(np.log(first / second)).max() / largest
            print(f", at most {apart:.1e} apart, {share:.1e} of the largest logit", end="")
        print()


def check_mask(predictor, path, mask, expected):
    """All but one pixel in 10,000 equal the reference's; where one differs, two classes tie."""
    theirs = expected[f"mask/{path.stem}"]
    different = mask != theirs
    assert different.sum() <= max(1, 1e-4 * mask.size)
    if different.any():
        first, second = choices(predictor, path, mask, theirs)
        np.testing.assert_allclose(first, second, atol=1e-4)


def choices(predictor, path, *masks):
    """Our probabilities of the class that each of two masks has, where they differ."""
    volume, different = predictor.probabilities(pixels(path)), masks[0] != masks[1]
    return [
        np.take_along_axis(volume, mask[..., None].astype(int), -1)[different] for mask in masks
    ]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def check_scores(scores, expected):
    """The counts of all images together, but for a pixel in 10,000; and what follows from them."""
    assert scores.pixels == expected["labelled"].sum()
    np.testing.assert_array_equal(scores.confusion.sum(axis=1), expected["labelled"])
    right, predicted = np.diagonal(scores.confusion), scores.confusion.sum(axis=0)
    for ours, theirs in ((right, "intersect"), (predicted, "predicted")):
        assert np.abs(ours - expected[theirs]).sum() <= 2e-4 * scores.pixels
    assert scores.aacc == pytest.approx(float(expected["aAcc"]), abs=1e-4)
    assert scores.miou == pytest.approx(np.nanmean(expected["IoU"]), abs=1e-4)
    assert scores.mean("acc") == pytest.approx(np.nanmean(expected["Acc"]), abs=1e-4)


def overrides(case, data):
    """Of the row's config, for a case."""
    values = {
        "model.num_classes": CLASSES,
        "data.name": "folder",
        "data_dir": str(data),
        "eval.scale": case.scale,
        "eval.mode": "slide" if case.slide else "whole",
    }
    if case.slide:
        values["eval.window"] = case.slide
        values["eval.stride"] = tuple(side * 2 // 3 for side in case.slide)
    if case.align_corners is not None:
        values["model.align_corners"] = case.align_corners
    return values | (TINY if case.tiny else {})


def write_data(case, shared, root):
    """Pictures of odd sizes, and CamVid's and VOC's photographs, some shrunk to odd sizes."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    names, palette = [f"class {i}" for i in range(CLASSES)], [[i, i, i] for i in range(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"classes": names, "palette": palette}))
    rng = np.random.default_rng(case.seed)
    for index, size in enumerate(ODD_SIZES[: case.odd]):
        image, labels = synthetic(rng, size)
        save(root, f"odd{index}", Image.fromarray(image), Image.fromarray(labels))
    camvid, voc = shared / "camvid" / "images" / "val", shared / "voc_sample" / "JPEGImages"
    for index in range(case.photographs):
        folder = (voc, camvid)[index % 2]
        path = rng.choice(sorted(folder.glob("*.jpg")))
        masks = (shared / "voc_sample" / "SegmentationClass", shared / "camvid" / "labels" / "val")
        label = masks[index % 2] / f"{path.stem}.png"
        image, labels = Image.open(path), Image.open(label)
        if index % 2:
            size = (480 - int(rng.integers(200)), 360 - int(rng.integers(150)))
            image, labels = image.resize(size), labels.resize(size, Image.Resampling.NEAREST)
        save(root, f"photograph{index}", image, labels)


def synthetic(rng, size):
    """Patches of colour with noise, and labels of other patches, some ignored."""
    cells = tuple(-(-side // 9) for side in size)
    image, labels = (
        np.kron(rng.integers(0, top, (*cells, *more)), np.ones((9, 9, *[1] * len(more)), int))
        for top, more in ((256, (3,)), (CLASSES, ()))
    )
    image, labels = image[: size[0], : size[1]], labels[: size[0], : size[1]].astype(np.uint8)
    image = np.clip(image + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)
    if labels.size > 1:  # the reference's scores fail on an image whose only pixel is ignored
        labels[rng.random(size) < 0.1] = 255
    return image, labels


def save(root, name, image, labels):
    image.save(root / "images" / "val" / f"{name}.png")
    labels.save(root / "labels" / "val" / f"{name}.png")


def run(*command_line):
    done = subprocess.run(list(map(str, command_line)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
