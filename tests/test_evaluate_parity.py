"""Evaluation of real photographs against the reference's own evaluation, same checkpoint."""

import json
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_evaluate import mesh_of

from nonlocal_jax import api, cli, evaluate, sharding
from nonlocal_jax.convert import command
from nonlocal_jax.models.build import build_network

pytestmark = pytest.mark.parity

ROWS = {
    "ade20k_r50_80k": "nonlocal_r50-d8_512x512_80k_ade20k",
    "cityscapes_r50_769x769_40k": "nonlocal_r50-d8_769x769_40k_cityscapes",
}
TINY = {
    "model.backbone.base_channels": 8,
    "model.backbone.stem_channels": 8,
    "model.decode_head.channels": 32,
    "model.auxiliary_head.channels": 16,
}
CLASSES = 21
SCALE = (320, 240)
WINDOW = (161, 129)


def photographs(shared: pathlib.Path, root: pathlib.Path, count: int) -> None:
    """CamVid's and VOC's images, some shrunk to odd sizes, as a folder of ours."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    names = [f"class {i}" for i in range(CLASSES)]
    palette = [[i, i, i] for i in range(CLASSES)]
    (root / "classes.json").write_text(json.dumps({"classes": names, "palette": palette}))
    camvid = sorted((shared / "camvid" / "images" / "val").glob("*.jpg"))
    voc = sorted((shared / "voc_sample" / "JPEGImages").glob("*.jpg"))
    for index, path in enumerate([*voc, *camvid[:: len(camvid) // count]][:count]):
        labels = "SegmentationClass" if path in voc else path.parent.name
        folder = path.parent.parent if path in voc else path.parents[2] / "labels"
        label = Image.open(folder / labels / f"{path.stem}.png")
        image, size = Image.open(path), (480 - 23 * index, 360 - 7 * index)
        if path in voc:
            size = image.size
        image.resize(size).save(root / "images" / "val" / f"{index}.png")
        label.resize(size, Image.Resampling.NEAREST).save(root / "labels" / "val" / f"{index}.png")


@pytest.mark.parametrize("width", ["tiny", "full"])
@pytest.mark.parametrize("tta", [False, True], ids=["plain", "tta"])
@pytest.mark.parametrize("row", ROWS)
def test_photographs_are_scored_as_by_the_reference(
    row, tta, width, shared, reference_python, tmp_path
):
    def reference(*arguments):
        peer = [reference_python, "-W", "ignore", shared / "peer" / "peer.py", *arguments]
        done = subprocess.run(list(map(str, peer)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    count = 5 if width == "tiny" and not tta else 2
    photographs(shared, tmp_path / "data", count)
    narrow = ["--tiny"] if width == "tiny" else []
    torch_file = tmp_path / "reference.pth"
    reference("init", ROWS[row], torch_file, "--classes", CLASSES, *narrow)
    data = tmp_path / "data"
    options = ["--tta"] * tta
    if "769" in row:
        options.append(f"--slide={WINDOW[0]},{WINDOW[1]}")
    reference(
        *("evaluate", ROWS[row], torch_file, "--classes-file", data / "classes.json"),
        *("--images", data / "images" / "val", "--labels", data / "labels" / "val"),
        *("--suffix", ".png,.png", "--scale", f"{SCALE[0]},{SCALE[1]}"),
        *("--out", tmp_path / "scores.npz", *options),
    )
    expected = np.load(tmp_path / "scores.npz")

    config = cli.load_config(
        REPOSITORY / "configs" / f"{row}.py",
        **(TINY if width == "tiny" else {}),
        **{
            "model.num_classes": CLASSES,
            "data.name": "folder",
            "data_dir": str(data),
            "eval.scale": SCALE,
            "eval.window": WINDOW,
            "eval.stride": tuple(side * 2 // 3 for side in WINDOW),
        },
    )
    shapes = {name: leaf.shape for name, leaf in build_network(config.model).shapes.items()}
    target = command.Target(row, "segmentor", "v1c", shapes, "")
    command.import_(target, str(torch_file), tmp_path / "checkpoint")
    network, loaded = api.restore(config, tmp_path / "checkpoint")
    mesh, masks = mesh_of(1), {}
    variables = jax.device_put(loaded, sharding.replicated(mesh))
    scores = evaluate.evaluate(
        network, variables, config, mesh=mesh, tta=tta, on_mask=masks.__setitem__, log=print
    )

    same = masks[0] == expected["first"]
    assert same.mean() >= 0.9999
    if not same.all():
        image = np.asarray(Image.open(data / "images" / "val" / "0.png").convert("RGB"))
        volume = api.Predictor(network, loaded, config, tta=tta).probabilities(image)
        ours, theirs = (
            np.take_along_axis(volume, mask[..., None].astype(int), -1)
            for mask in (masks[0], expected["first"])
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert scores.pixels == expected["label"].sum()
    difference = np.abs(np.diagonal(scores.confusion) - expected["intersect"]).sum()
    assert difference <= 1e-4 * scores.pixels
    np.testing.assert_allclose(scores.iou, expected["iou"], atol=1e-4)
    np.testing.assert_allclose(scores.acc, expected["acc"], atol=1e-4)
    assert scores.miou == pytest.approx(np.nanmean(expected["iou"]), abs=1e-4)
    shutil.rmtree(tmp_path)
