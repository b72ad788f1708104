"""What the PyTorch reference predicts for every image of a folder, and the scores it computes.

    PYTHON_OF_THE_REFERENCE -W ignore reference_evaluate.py PEER.py STEM CKPT.pth FOLDER OUT.npz \
        --scale=W,H [--slide=H,W] [--tta] [--align_corners=0|1] [--double] [--serve]

FOLDER holds images/val, labels/val and classes.json. OUT.npz has "mask/NAME" for every image,
and counts and means over all of them as mmseg.core computes them. --double has the network computed
in float64. --serve, for benchmarks, does the same once for every line of its input, and prints the
seconds instead of writing anything.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import time

import numpy as np
import torch
from mmseg.core import intersect_and_union, pre_eval_to_metrics
from mmseg.datasets.custom import CustomDataset


def main() -> None:
    """Writes OUT.npz."""
    parser = argparse.ArgumentParser()
    for name in ("peer", "stem", "checkpoint", "folder", "out", "--scale", "--slide"):
        parser.add_argument(name)
    for name in ("--tta", "--double", "--serve"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--align_corners", type=int)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("peer", args.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)

    config, model = peer.build(args.stem, args.checkpoint)
    model.eval()
    if args.double:
        model.double()
    if args.align_corners is not None:
        model.align_corners = model.decode_head.align_corners = bool(args.align_corners)
    model.test_cfg.mode = "whole"
    if args.slide:
        window = pair(args.slide)
        stride = tuple(side * 2 // 3 for side in window)
        model.test_cfg.update(mode="slide", crop_size=window, stride=stride)
    pipeline = config.data.test.pipeline
    pipeline[1].img_scale = pair(args.scale)
    if args.tta:
        pipeline[1].img_ratios, pipeline[1].flip = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], True

    root = pathlib.Path(args.folder)
    classes = json.loads((root / "classes.json").read_text())
    data = CustomDataset(
        pipeline=pipeline,
        img_dir=root / "images" / "val",
        ann_dir=root / "labels" / "val",
        img_suffix=".png",
        test_mode=True,
        **classes,
    )
    names = [info["filename"].removesuffix(".png") for info in data.img_infos]
    if not args.serve:
        masks, counts = run(model, data)
        np.savez(
            args.out,
            **{f"mask/{n}": m for n, m in zip(names, masks, strict=True)},
            **scores(counts),
        )
    for _ in sys.stdin if args.serve else ():
        start = time.perf_counter()
        scores(run(model, data)[1])
        print(time.perf_counter() - start, flush=True)


def run(model, data):
    """Masks of all images, and each one's counts of pixels by class, as in mmseg's test loop."""
    masks, counts = [], []
    dtype = next(model.parameters()).dtype
    for index in range(len(data)):
        item = data[index]
        metas = [[meta.data] for meta in item["img_metas"]]
        with torch.no_grad():
            images = [image[None].to(dtype) for image in item["img"]]
            mask = model.forward_test(images, metas)[0]
        label = np.asarray(data.get_gt_seg_map_by_idx(index))
        masks.append(mask.astype(np.uint8))
        counts.append(intersect_and_union(mask, label, len(data.CLASSES), 255))
    return masks, counts


def scores(counts):
    """Totals and what mmseg makes of them."""
    names = ("intersect", "union", "predicted", "labelled")
    totals = {n: sum(each[i] for each in counts).numpy() for i, n in enumerate(names)}
    means = pre_eval_to_metrics(counts, ["mIoU"])
    return totals | {"aAcc": means["aAcc"], "IoU": means["IoU"], "Acc": means["Acc"]}


def pair(text):
    """Two integers from "A,B"."""
    first, second = (int(value) for value in text.split(","))
    return first, second


if __name__ == "__main__":
    main()
