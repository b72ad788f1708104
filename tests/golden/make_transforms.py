"""What MMSegmentation 0.30 makes of images with given and with random parameters.

Run with the reference's Python (MMSegmentation 0.30); the outputs in this folder came from

    python tests/golden/make_transforms.py golden tests/golden/transforms.npz
    python tests/golden/make_transforms.py draws tests/golden/draws.npz

`make parity` runs `cases IN.npz OUT_FOLDER`, which applies the parameters in IN to its images.
"""

import json
import os
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")
import mmseg  # noqa: E402
import numpy as np  # noqa: E402
from mmcv import Config  # noqa: E402
from mmseg.datasets import pipelines  # noqa: E402
from mmseg.datasets.pipelines import transforms  # noqa: E402

CONFIGS = os.path.join(os.path.dirname(mmseg.__file__), ".mim", "configs", "nonlocal_net")
DRAWS = 2000


class Scripted:
    """Stands in for numpy.random in the reference: gives out what it was given."""

    def __init__(self, values):
        self.values = list(values)

    def randint(self, *_):
        return self.values.pop(0)

    uniform = randint


def script(distortion):
    """The draws, in the reference's order, that lead to these parameters."""
    contrast = [int(distortion["contrast"] is not None)]
    contrast += [distortion["contrast"]] * contrast[0]
    values = []
    for key in ("brightness", "contrast_first", "saturation", "hue"):
        if key == "contrast_first":
            values += [1, *contrast] if distortion[key] else [0]
        elif distortion[key] is None:
            values.append(0)
        else:
            values += [1, distortion[key]]
    return values if distortion["contrast_first"] else values + contrast


def steps(row):
    """The training transforms of a row, by type."""
    config = Config.fromfile(os.path.join(CONFIGS, row + ".py"))
    return {step["type"]: dict(step) for step in config.train_pipeline}


def build(step):
    return getattr(pipelines, step["type"])(**{k: v for k, v in step.items() if k != "type"})


def apply(row, image, label, case):
    """Image (RGB uint8) and label through a row's transforms with the parameters of `case`."""
    config = steps(row)
    results = {
        "img": np.ascontiguousarray(image[..., ::-1]),
        "gt_semantic_seg": label.copy(),
        "seg_fields": ["gt_semantic_seg"],
        "scale": tuple(case["scale"]),
        "flip": case["flip"],
        "flip_direction": "horizontal",
    }
    results["img_shape"] = results["img"].shape
    results = build(config["Resize"])(results)
    top, left, height, width = case["box"]
    crop = build(config["RandomCrop"])
    for key in ("img", "gt_semantic_seg"):
        results[key] = crop.crop(results[key], (top, top + height, left, left + width))
    results = build(config["RandomFlip"])(results)
    transforms.random = Scripted(script(case["distortion"]))
    results = build(config["PhotoMetricDistortion"])(results)
    assert not transforms.random.values
    results = build(config["Normalize"])(results)
    results = build(dict(config["Pad"], size=tuple(case["crop_size"])))(results)
    return results["img"], results["gt_semantic_seg"]


def cases(source, folder):
    """Applies each case of a .npz: `cases` is JSON, image_I and label_I are its arrays."""
    given = np.load(source)
    for number, case in enumerate(json.loads(str(given["cases"]))):
        index = case["image"]
        image, label = apply(case["row"], given[f"image_{index}"], given[f"label_{index}"], case)
        np.savez(pathlib.Path(folder) / f"{number}.npz", image=image, label=label)


def smooth(rng, height, width):
    """An image with structure: coarse noise, enlarged, and a little fine noise."""
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    image = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width] + rng.integers(
        -9, 10, (height, width, 3)
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def golden(out):
    """A few images, smaller and larger than the crop, with fixed parameters."""
    rng = np.random.default_rng(0)
    off = {
        "brightness": None,
        "contrast": None,
        "contrast_first": True,
        "saturation": None,
        "hue": None,
    }
    full = {
        "brightness": -20.5,
        "contrast": 1.3,
        "contrast_first": True,
        "saturation": 0.6,
        "hue": 11,
    }
    late = {
        "brightness": 31.0,
        "contrast": 0.55,
        "contrast_first": False,
        "saturation": 1.45,
        "hue": -18,
    }
    row = "nonlocal_r50-d8_512x512_80k_ade20k"
    fixed = [
        # image, scale, crop, box, flip, distortion: 0 is larger than the crop, 1 smaller
        (0, (120, 40), (32, 48), (5, 4, 32, 48), False, off),
        (0, (45, 30), (32, 48), (0, 0, 32, 45), True, off),
        (0, (128, 96), (32, 48), (64, 80, 32, 48), True, full),
        (1, (64, 20), (32, 48), (0, 0, 20, 27), True, late),
        (1, (199, 67), (32, 48), (35, 41, 32, 48), False, late),
        (0, (200, 24), (32, 48), (0, 0, 24, 32), True, full),
    ]
    sizes = [(48, 64), (33, 45)]
    arrays, listed = {}, []
    for index, (height, width) in enumerate(sizes):
        arrays[f"image_{index}"] = smooth(rng, height, width)
        label = rng.integers(0, 6, (height // 4 + 1, width // 4 + 1))
        label = np.kron(label, np.ones((4, 4)))[:height, :width].astype(np.uint8)
        label[label == 5] = 255
        arrays[f"label_{index}"] = label
    for number, (image, scale, crop, box, flip, distortion) in enumerate(fixed):
        case = dict(
            row=row,
            image=image,
            scale=scale,
            crop_size=crop,
            box=box,
            flip=flip,
            distortion=distortion,
        )
        listed.append(case)
        arrays[f"out_image_{number}"], arrays[f"out_label_{number}"] = apply(
            row, arrays[f"image_{image}"], arrays[f"label_{image}"], case
        )
    np.savez_compressed(out, cases=json.dumps(listed), **arrays)


class Recording:
    """numpy.random with a list of what it gave out."""

    def __init__(self):
        self.drawn = []

    def randint(self, *bounds):
        self.drawn.append(np.random.randint(*bounds))
        return self.drawn[-1]

    def uniform(self, *bounds):
        self.drawn.append(np.random.uniform(*bounds))
        return self.drawn[-1]


def crop_label():
    """Two classes and ignored pixels: most crops of 64x64 break the 75% rule."""
    label = np.zeros((160, 240), np.uint8)
    label[:, 150:] = 1
    label[40:90, 20:100] = 255
    label[100:110, 30:60] = 2
    return label


def draw_sizes(row, draws):
    resize = build(steps(row)["Resize"])
    sizes = []
    for _ in range(draws):
        results = {}
        resize._random_scale(results)
        sizes.append(results["scale"])
    return np.array(sizes, np.int32)


def draw_crops(draws):
    label = crop_label()
    places = np.stack(np.meshgrid(*map(np.arange, label.shape), indexing="ij"), axis=-1)
    crop = transforms.RandomCrop((64, 64), cat_max_ratio=0.75)
    corners = []
    for _ in range(draws):
        results = {"img": places, "gt_semantic_seg": label, "seg_fields": ["gt_semantic_seg"]}
        corners.append(crop(results)["img"][0, 0])
    return np.array(corners, np.int32)


def take(values):
    """The next step's parameter: a 0 or 1 for whether it is done, then its value."""
    return values.pop(0) if values.pop(0) else np.nan


def draw_distortions(draws):
    """brightness, contrast, saturation, hue (NaN where left out) and whether contrast was first."""
    image = np.full((1, 1, 3), 100, np.uint8)
    rows = []
    for _ in range(draws):
        transforms.random = recording = Recording()
        transforms.PhotoMetricDistortion()({"img": image})
        values = recording.drawn
        brightness, first = take(values), values.pop(0)
        contrast = take(values) if first else np.nan
        saturation, hue = take(values), take(values)
        contrast = contrast if first else take(values)
        assert not values
        rows.append((brightness, contrast, saturation, hue, first))
    return np.array(rows, np.float32)


def draws(out):
    """What the reference draws by itself."""
    np.random.seed(0)
    np.savez_compressed(
        out,
        scales_ade20k=draw_sizes("nonlocal_r50-d8_512x512_80k_ade20k", DRAWS),
        scales_cityscapes=draw_sizes("nonlocal_r50-d8_769x769_40k_cityscapes", DRAWS),
        corners=draw_crops(DRAWS),
        crop_label=crop_label(),
        distortions=draw_distortions(2 * DRAWS),
    )


if __name__ == "__main__":
    {"golden": golden, "draws": draws, "cases": cases}[sys.argv[1]](*sys.argv[2:])
