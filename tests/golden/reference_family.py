"""What models/test_family_parity.py asks of the PyTorch reference (torch, mmseg 0.30).

python reference_family.py forward METHOD/STEM CKPT.pth IN.npz OUT.npz
    writes a random checkpoint, and the logits of `images` in float32 and float64
python reference_family.py load METHOD/STEM ORIGINAL.pth EXPORTED.pth
    strict loading, equal keys, dtypes and bytes
python reference_family.py train METHOD METHOD/STEM OUT.npz
    ten steps of golden/make_model.py, at tiny widths
"""

import pathlib
import sys

import mmseg
import numpy as np
import torch
from family_cases import CASES, in_network
from make_convert import plain_norms
from make_family import complete_reference, with_our_weights
from make_model import nhwc, train
from mmcv import Config
from mmseg.models import build_segmentor
from weights import NUM_CLASSES

CONFIGS = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs"
SIZE = (49, 57)
RATE = 1e-4  # at 1e-3 rounding grows twentyfold with each step, in random networks like these


def settings(stem):
    model = Config.fromfile(str(CONFIGS / f"{stem}.py")).model
    model.pretrained = None
    plain_norms(model)
    return model


def forward(stem, checkpoint, source, target):
    model = with_our_weights(build_segmentor(settings(stem))).eval()
    torch.save({"meta": {"iter": 1}, "state_dict": model.state_dict()}, checkpoint)
    images = torch.from_numpy(np.load(source)["images"].transpose(0, 3, 1, 2).copy())
    outputs = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model = model.to(dtype)
        with torch.no_grad():
            stages = model.backbone(images.to(dtype))
            decode = model.decode_head.forward_test(stages, None, None)
            found = {
                "decode": decode,
                "auxiliary": model.auxiliary_head(stages),
                "logits": model.encode_decode(images.to(dtype), [{}]),
            }
        outputs |= {f"{name}/{key}": nhwc(value) for key, value in found.items()}
    np.savez(target, **outputs)


def load(stem, original, exported):
    before, after = (torch.load(p, weights_only=True)["state_dict"] for p in (original, exported))
    build_segmentor(settings(stem)).load_state_dict(after, strict=True)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (value.dtype, value.shape) == (after[key].dtype, after[key].shape), key
        assert value.numpy().tobytes() == after[key].numpy().tobytes(), key


def train_tiny(method, stem, target):
    model = settings(stem)
    model.backbone.depth, model.backbone.base_channels = 18, 4
    model.backbone.stem_channels = 4
    several = len(CASES[method].reads) > 1
    for head, channels in ((model.decode_head, 32), (model.auxiliary_head, 16)):
        head.in_channels, head.dropout_ratio, head.num_classes = channels, 0.0, NUM_CLASSES
    if several:
        model.decode_head.in_channels = [16, 32]
    model.decode_head.update(in_network(CASES[method].theirs))
    model.auxiliary_head.channels = 8
    network = build_segmentor(model)
    network.decode_head.dropout = torch.nn.Identity()  # see make_family.py
    np.savez(target, **train(with_our_weights(network), SIZE, RATE))


if __name__ == "__main__":
    complete_reference()
    {"forward": forward, "load": load, "train": train_tiny}[sys.argv[1]](*sys.argv[2:])
