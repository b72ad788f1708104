"""Folders of one's own: images, masks in several forms, and class lists."""

import json

import numpy as np
from PIL import Image

CLASSES = ("road", "sky", "car")
PALETTE = [[128, 64, 128], [70, 130, 180], [0, 0, 142]]
SIZE = (24, 32)


def write_classes(root, **content):
    root.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"classes": CLASSES, "palette": PALETTE, **content})
    (root / "classes.json").write_text(text)


def write_image(root, name, seed=0):
    path = root / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(root, name, mask):
    path = root / "labels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    image.save(path)
    return path


def labels(seed=0):
    return np.random.default_rng(seed).integers(0, len(CLASSES), SIZE).astype(np.uint8)


def coloured(mask, ignored=()):
    """The mask in colours; 255 has the first of the ignored ones."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(PALETTE)] = PALETTE
    table[255] = ignored[0] if ignored else 0
    return table[mask]


def both_splits(root, write):
    for split in ("train", "val"):
        write_image(root, f"{split}/a.png")
        write(f"{split}/a.png")


def coco(images=("a.png",), annotations=(), categories=CLASSES, size=SIZE):
    numbers = {name: 10 + i for i, name in enumerate(categories)}
    return {
        "images": [
            {"id": i, "file_name": name, "height": size[0], "width": size[1]}
            for i, name in enumerate(images)
        ],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": [
            {"image_id": i, "category_id": numbers[name], "segmentation": s}
            for i, name, s in annotations
        ],
    }


def write_coco(root, split, content):
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "labels" / f"{split}.json").write_text(json.dumps(content))
