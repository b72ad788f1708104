"""What the PyTorch reference predicts for every image of a folder, and the scores it computes.

    PYTHON_OF_THE_REFERENCE -W ignore reference_evaluate.py PEER.py STEM CKPT.pth FOLDER OUT.npz \
        --scale=W,H [--slide=H,W] [--tta] [--align_corners=0|1]

FOLDER holds images/val, labels/val and classes.json. OUT.npz has "mask/NAME" for every image,
and confusion counts and means over all of them as mmseg.core computes them.
"""

import argparse
import importlib.util
import json
import pathlib

import numpy as np
import torch
from mmseg.core import intersect_and_union, pre_eval_to_metrics
from mmseg.datasets.custom import CustomDataset


def main() -> None:
    """Writes OUT.npz."""
    parser = argparse.ArgumentParser()
    for name in ("peer", "stem", "checkpoint", "folder", "out", "--scale", "--slide"):
        parser.add_argument(name)
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--align_corners", type=int)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("peer", args.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)

    config, model = peer.build(args.stem, args.checkpoint)
    model.eval()
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
    out, counts = {}, []
    for index, item in enumerate(data):
        metas = [[meta.data] for meta in item["img_metas"]]
        with torch.no_grad():
            mask = model.forward_test([image[None] for image in item["img"]], metas)[0]
        name = data.img_infos[index]["filename"].removesuffix(".png")
        out[f"mask/{name}"] = mask.astype(np.uint8)
        label = np.asarray(data.get_gt_seg_map_by_idx(index))
        counts.append(intersect_and_union(mask, label, len(classes["classes"]), 255))
        if index + 1 == len(data):
            break
    for position, name in ((0, "intersect"), (1, "union"), (2, "predicted"), (3, "labelled")):
        out[name] = sum(count[position] for count in counts).numpy()
    scores = pre_eval_to_metrics(counts, ["mIoU"])
    out |= {"aAcc": scores["aAcc"], "IoU": scores["IoU"], "Acc": scores["Acc"]}
    np.savez(args.out, **out)


def pair(text):
    """Two integers from "A,B"."""
    first, second = (int(value) for value in text.split(","))
    return first, second


if __name__ == "__main__":
    main()
