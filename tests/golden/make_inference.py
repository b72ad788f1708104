"""Writes inference.npz: what the PyTorch reference predicts, and scores, for a few pictures.

    PYTHON_OF_THE_REFERENCE -W ignore tests/golden/make_inference.py PEER.py

PEER.py drives MMSegmentation 0.30.0 (it offers `load_config`). Weights come from weights.py,
pictures and labels from pictures.py; stored are predictions, some of their probabilities, and
everything that the reference's evaluation says of them.
"""

import importlib.util
import pathlib
import sys
import tempfile

import numpy as np
import torch
from make_model import ROW_512, ROW_769, build
from mmseg.core import intersect_and_union, pre_eval_to_metrics
from mmseg.datasets.custom import CustomDataset
from pictures import IGNORE, NUM_CLASSES, SIZES, label, picture
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
SCALE = (96, 64)
RATIOS = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
WINDOW, STRIDE = (49, 49), (33, 33)
CASES = {
    "whole": (ROW_512, False),
    "whole_tta": (ROW_512, True),
    "slide": (ROW_769, False),
    "slide_tta": (ROW_769, True),
}
EVERY = 5  # of the pixels along each axis, whose probabilities are stored


def main() -> None:
    """Writes the file beside this script."""
    spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    stored = {}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(len(SIZES)):
            Image.fromarray(picture(index)).save(f"{folder}/{index}.png")
        for case, (row, tta) in CASES.items():
            stored |= {f"{case}/{k}": v for k, v in evaluate(peer, row, tta, folder).items()}
    np.savez_compressed(HERE / "inference.npz", **stored)


def evaluate(peer, row, tta, folder):
    """Predictions, samples of their probabilities, and scores over all pictures."""
    model = build(peer, row, {}).eval()
    if row == ROW_769:
        model.test_cfg.update(mode="slide", crop_size=WINDOW, stride=STRIDE)
    pipeline = peer.load_config(row).data.test.pipeline
    pipeline[1].img_scale = SCALE
    if tta:
        pipeline[1].img_ratios, pipeline[1].flip = RATIOS, True
    classes = [str(i) for i in range(NUM_CLASSES)]
    data = CustomDataset(
        pipeline=pipeline,
        img_dir=folder,
        img_suffix=".png",
        test_mode=True,
        classes=classes,
        palette=[[i] * 3 for i in range(NUM_CLASSES)],
    )
    out, counts = {}, []
    for index in range(len(SIZES)):
        item = data[index]
        images = [image[None] for image in item["img"]]
        metas = [[meta.data] for meta in item["img_metas"]]
        with torch.no_grad():
            volume = model.aug_test_logits(images, metas)[0]
        mask = volume.argmax(0).astype(np.uint8)
        out[f"mask{index}"] = mask
        out[f"probabilities{index}"] = volume.transpose(1, 2, 0)[::EVERY, ::EVERY]
        counts.append(intersect_and_union(mask, label(index), NUM_CLASSES, IGNORE))
    scores = pre_eval_to_metrics(counts, ["mIoU", "mDice", "mFscore"])
    return out | {f"scores/{name}": value for name, value in scores.items()}


if __name__ == "__main__":
    main()
