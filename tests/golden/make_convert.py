"""Makes the converter's goldens with the PyTorch reference (torch, mmseg 0.30):

    python tests/golden/make_convert.py

- convert_{legacy,zip}.pth: a NonLocalNet R-50 of tiny widths, random, in both serialisations.
- convert_kinds_{legacy,zip}.pth: every type of tensor and of plain value that torch.save writes.
- convert_keys.json: key and shape of every tensor of the reference's networks.
"""

import json
import pathlib
from collections import OrderedDict

import mmseg
import numpy as np
import torch
from mmcv import Config
from mmseg.models import build_segmentor

HERE = pathlib.Path(__file__).parent
CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs" / "nonlocal_net"
BASE = "nonlocal_r50-d8_512x1024_40k_cityscapes"
CLASSES = ("road", "tree", "sky")


def segmentor(stem=BASE, *, depth=None, variant=None, classes=None):
    model = Config.fromfile(str(CONFIGS / f"{stem}.py")).model
    model.pretrained = None
    plain_norms(model)
    if variant:
        model.backbone.type = variant
    if depth:
        model.backbone.depth = depth
    if depth in (18, 34):
        model.decode_head.in_channels, model.auxiliary_head.in_channels = 512, 256
    if classes:
        model.decode_head.num_classes = model.auxiliary_head.num_classes = classes
    return model


def plain_norms(node):
    """SyncBN runs on GPUs only; BN has the same tensors."""
    if isinstance(node, dict):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        for value in node.values():
            plain_norms(value)


def tiny():
    model = segmentor(classes=len(CLASSES))
    model.backbone.base_channels = model.backbone.stem_channels = 2
    model.decode_head.in_channels, model.decode_head.channels = 64, 8
    model.auxiliary_head.in_channels, model.auxiliary_head.channels = 32, 4
    return model


def randomise(network):
    """Every tensor differs from every other, so that no two can be confused."""
    generator = torch.Generator().manual_seed(0)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
        else:
            tensor.fill_(int(torch.randint(1000, 10**12, (), generator=generator)))


def write_network():
    network = build_segmentor(tiny())
    randomise(network)
    meta = {
        "env_info": "sys.platform: linux\nPyTorch: 1.5.1",
        "seed": 0,
        "CLASSES": CLASSES,
        "PALETTE": [[128, 64, 128], [0, 128, 0], [70, 130, 180]],
        "iter": 40000,
        "hook_msgs": {"best_score": np.float64(0.5), "last": np.int64(7)},
    }
    save({"meta": meta, "state_dict": network.state_dict()}, "convert")


def write_kinds():
    base = torch.arange(24, dtype=torch.float32)
    dtypes = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128", "bool"]
    dtypes += ["int64", "int32", "int16", "int8", "uint8"]
    tensors = {name: (base % 2).to(getattr(torch, name)) for name in dtypes}
    tensors["scalar"] = torch.tensor(3)
    tensors["empty"] = torch.zeros(0, 4)
    tensors["transposed"] = base.reshape(4, 6).t()
    tensors["sliced"] = base[5:17:3]
    tensors["parameter"] = torch.nn.Parameter(base[:2].clone())
    plain = {
        "none": None,
        "truths": [True, False],
        "numbers": (1, -(2**40), 255, 65535, 1.5),
        "text": "ä\u2028\U0001f600",
        "nested": [{"a": ((),)}, OrderedDict(b=[])],
        "size": torch.Size((2, 3)),
        "numpy": (np.float32(0.25), np.int64(-3), np.bool_(True)),
    }
    save({"tensors": tensors, "plain": plain}, "convert_kinds")


def save(value, name):
    torch.save(value, HERE / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(value, HERE / f"{name}_zip.pth")


def write_keys():
    models = {stem.stem: segmentor(stem.stem) for stem in sorted(CONFIGS.glob("*.py"))}
    models |= {f"v1c {depth}": segmentor(depth=depth) for depth in (18, 34, 152)}
    models |= {f"v1d {depth}": segmentor(depth=depth, variant="ResNetV1d") for depth in (18, 50)}
    networks = {}
    for name, model in models.items():
        state = build_segmentor(model).state_dict()
        networks[name] = {key: list(tensor.shape) for key, tensor in state.items()}
    (HERE / "convert_keys.json").write_text(compact(networks))


def compact(networks):
    """A table of "key shape" lines, and each network as ranges of it."""
    lines = {n: [f"{k} {'x'.join(map(str, s))}" for k, s in t.items()] for n, t in networks.items()}
    table = sorted({line for group in lines.values() for line in group})
    index = {line: i for i, line in enumerate(table)}
    rows = {name: ranges([index[line] for line in group]) for name, group in lines.items()}
    return json.dumps({"tensors": table, "networks": rows}, indent=0) + "\n"


def ranges(numbers):
    """[1, 2, 3, 7] as [[1, 4], [7, 8]]."""
    result = []
    for number in sorted(numbers):
        if result and result[-1][1] == number:
            result[-1][1] += 1
        else:
            result.append([number, number + 1])
    return result


if __name__ == "__main__":
    write_network()
    write_kinds()
    write_keys()
